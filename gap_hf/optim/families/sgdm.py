"""SGD with momentum: K momentum buffers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from ...candidate import Candidate
from ..arithmetic.operations import Operations
from ..arithmetic.precision import cast, compute_dtype, store, update
from ..arithmetic.summing import summed
from ..family import Option, Scored, TorchsDefault, modulation
from ..kernels.sgdm_cpu import SGDMOnCPU
from ..kernels.sgdm_cuda import SGDMOnCUDA
from ..options import given, is_flag, is_number, number
from ..rules.mix import is_mix
from ..shell import GapOptimizer
from ..uploads import constant
from ..work import Buffer, Work
from .common import (
    draws,
    filtered,
    kept_moments,
    momentum_gain,
    numbers_of_text,
    one_over_norm,
    parse_momentum,
    places,
    rescaled,
)

MIX_CANDIDATES, MIX_WEIGHTS = (0.0, 0.9), (0.3, 0.7)
"""The candidates of ``SGDM(type="mix")`` and of ``optim="gap_sgdm_mix"``, and their weights."""


class SGDMNumbers(NamedTuple):
    """The options as a step of the SGDM family needs them.

    Attributes:
        momenta: the K candidates' momenta.
        first: K places among the buffers; None where there is none, because it would be the gradient itself.
        gains: K factors of the scores.
        modulation: K factors on the learning rate.
        lr: learning rate; a tensor stays on its device.
        l2: weight decay, which goes through the gradient.
        dampening: the part of the gradient that is kept out of the buffers.
        nesterov: whether the step is the gradient plus momentum times the buffer.
        maximize: take the gradients with the other sign.
        soft_reset: factor on the buffers at a reset.
        stochastic: whether the buffers are rounded stochastically to bfloat16.
    """

    momenta: tuple[float, ...]
    first: tuple[int | None, ...]
    gains: tuple[float, ...]
    modulation: tuple[float, ...]
    lr: float | Tensor
    l2: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    soft_reset: float = 1.0
    stochastic: bool = False


class SGDMFamily(Scored, TorchsDefault):
    r"""The arithmetic of SGD with momentum.

    For each gradient \(g\) and momentum \(\mu_j\), with dampening \(d\) (arXiv 2512.06370):

    \[
    b_j \leftarrow \mu_j b_j + (1-d)\, g, \qquad J_j = \sqrt{1-\mu_j^2} \sum g\, b_j, \qquad p \leftarrow p - \eta\, b_j
    \]
    """

    # fmt: off
    name, candidate_name, candidate_option = "sgdm", "momentum", "momentum"
    grid = (0.0, 0.5, 0.8, 0.9, 0.99)
    fused: ClassVar = {"cpu": SGDMOnCPU, "cuda": SGDMOnCUDA}
    examples: ClassVar = (
        {
            "momentum": [0.91, 0.95], "lr": 0.1, "weight_decay": 0.2, "nesterov": True, "dampening": 0.0,
            "maximize": True, "lr_modulation": True, "soft_reset": 0.7, "type": "switch", "state_dtype": None,
        },
        {
            "momentum": [0.0, 0.5, 0.99], "lr": 0.1, "weight_decay": 0.0, "nesterov": False, "dampening": 0.3,
            "maximize": False, "lr_modulation": True, "soft_reset": 0.7, "type": "switch", "state_dtype": None,
        },
    )
    options: ClassVar = {
        "momentum": Option(
            "one number, or a list of K: the candidates.", example="momentum=0.5:0.9:0.99", read=numbers_of_text
        ),
        "dampening": Option(
            "of the gradient that enters the buffers.", lambda x: is_number(x) and math.isfinite(x), "a number"
        ),
        "nesterov": Option(
            "apply ``g + momentum * buf``; needs ``momentum > 0`` and ``dampening = 0``, as in torch.",
            is_flag, "True or False",
        ),
    }
    # fmt: on

    # ------------------------------------------------------------------ torch's states
    of_torch: ClassVar = {
        **{"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False},
        **{"foreach": None, "differentiable": False, "fused": None},
    }
    shared_with_torch = ("lr", "weight_decay", "maximize", "dampening", "nesterov")
    moments_of_torch = ("momentum_buffer",)

    def from_torch(
        self, group: Mapping[str, Any], saved: Mapping[str, Any], found: Mapping[str, Any]
    ) -> dict[str, Any]:
        momenta, (momentum,) = self.parse(group), parse_momentum(saved["momentum"])
        # torch counts no steps; here the first one, which is not dampened, is over
        return {"step": 1} | {
            f"momentum_buffer_{j}": rescaled(found["momentum_buffer"], (1 - momentum) / (1 - momenta[j]))
            for j in self.kept(group)
        }

    def memories(self, options: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
        momenta = self.parse(options)
        return {f"momentum_buffer_{j}": ("momentum_buffer", momenta[j]) for j in self.kept(options)}

    def group_for_torch(self, group: Mapping[str, Any], chosen: int) -> dict[str, Any]:
        return {"momentum": self.parse(group)[chosen]}

    def to_torch(self, group: Mapping[str, Any], found: Mapping[str, Any], mine: int, chosen: int) -> dict[str, Any]:
        momenta = self.parse(group)
        if f"momentum_buffer_{mine}" not in found:  # it is the gradient, of which nothing is kept
            mine = chosen
        if f"momentum_buffer_{mine}" not in found or not momenta[chosen]:
            return {"momentum_buffer": None}
        factor = (1 - momenta[mine]) / (1 - momenta[chosen])
        return {"momentum_buffer": rescaled(found[f"momentum_buffer_{mine}"], factor)}

    # ------------------------------------------------------------------ options
    def parse(self, options: Mapping[str, Any]) -> list[float]:
        return parse_momentum(options["momentum"])

    def candidates(self, options: Mapping[str, Any]) -> list[Candidate]:
        return [Candidate(f"{m:g}", m, self.name) for m in self.parse(options)]

    def check(self, options: Mapping[str, Any]) -> None:
        dampening = options["dampening"]
        if options["type"] == "default" and options["capturable"]:
            raise ValueError(
                "capturable=True is not for SGDM's type='default', because torch.optim.SGD can't be captured"
            )
        if options["nesterov"] and (dampening != 0 or min(self.parse(options)) <= 0):
            raise ValueError(
                f"nesterov needs every momentum > 0 and dampening = 0; got momentum={options['momentum']!r}, "
                f"dampening={dampening!r}"
            )

    def decays(self, options: Mapping[str, Any]) -> tuple[float, ...]:
        return tuple(self.parse(options))

    def buffers(self, options: Mapping[str, Any]) -> list[Buffer]:
        factor = float(options["soft_reset"])
        return [Buffer(f"momentum_buffer_{j}", soft_reset=factor) for j in self.kept(options)]

    def kept(self, options: Mapping[str, Any]) -> list[int]:
        """The candidates that have a buffer."""
        momenta = self.parse(options)
        if any(momenta):
            return kept_moments(self, options)
        # without momentum torch keeps none; a choice needs the count of steps, which goes with buffers
        return [] if options["type"] == "default" else list(range(len(momenta)))

    def numbers(self, options: Mapping[str, Any]) -> SGDMNumbers:
        momenta = self.parse(options)
        norms = [one_over_norm(m) for m in momenta]
        return SGDMNumbers(
            momenta=tuple(momenta),
            first=places(len(momenta), self.kept(options)),
            gains=tuple(norms),
            modulation=modulation(options, norms, [momentum_gain(m) for m in momenta]),
            lr=number(options["lr"]),
            l2=float(options["weight_decay"]),
            dampening=float(options["dampening"]),
            nesterov=options["nesterov"],
            maximize=options["maximize"],
            soft_reset=float(options["soft_reset"]),
            stochastic=options["state_dtype"] == "bfloat16",
        )

    # ------------------------------------------------------------------ a step
    def observe(self, ops: Operations, work: Work, answers: list[Tensor]) -> Tensor:
        numbers: SGDMNumbers = work.numbers
        grads = filtered(ops, work)
        steps = torch.stack(work.steps).tolist()
        first = [i for i, t in enumerate(steps) if t == 1]
        later = [i for i, t in enumerate(steps) if t != 1]
        wide = cast(grads, compute_dtype(grads[0].dtype))
        dots = []  # sum(g buf_j)
        for j, momentum in enumerate(numbers.momenta):

            def filtering(b: list[Tensor], g: list[Tensor], momentum: float = momentum) -> None:
                if first:  # a buffer begins as the gradient, without dampening, as torch.optim.SGD's
                    ops.copy_([b[i] for i in first], [g[i] for i in first])
                if later:
                    ops.mul_([b[i] for i in later], momentum)
                    ops.add_([b[i] for i in later], [g[i] for i in later], alpha=1 - numbers.dampening)

            place = numbers.first[j]
            if place is None:
                moment = undelayed(ops, work, wide)
            else:
                moment = update(ops, work.buffers[place], grads, filtering, draws(numbers, steps, j))
            if work.scored:
                products = ops.mul(wide, moment)
                dots.append(summed(products))
        if not work.scored:
            return torch.zeros(len(grads), 0, dtype=torch.float64, device=grads[0].device)
        return torch.stack(dots, dim=1)

    def sums(self, numbers: SGDMNumbers) -> int:
        return len(numbers.momenta)

    def scores(self, numbers: SGDMNumbers, sums: Tensor, numel: Tensor) -> Tensor:
        return constant(numbers.gains, sums.dtype, sums.device) * sums

    def apply(self, ops: Operations, work: Work, answers: list[Tensor], candidate: int) -> None:
        numbers: SGDMNumbers = work.numbers
        values = cast(work.values, moving_dtype(work))
        rate = -float(numbers.lr) * numbers.modulation[candidate]
        ops.add_(values, updates(ops, work, candidate), alpha=rate)
        store(ops, work.values, values)

    def mix(self, ops: Operations, work: Work, answers: list[Tensor], weights: Sequence[Sequence[float]]) -> None:
        numbers: SGDMNumbers = work.numbers
        total: list[Tensor] = []
        for j in range(len(numbers.momenta)):
            rate = -float(numbers.lr) * numbers.modulation[j]
            part = list(ops.mul(updates(ops, work, j), [rate * of_each[j] for of_each in weights]))
            if total:
                ops.add_(total, part)
            else:
                total = part
        values = cast(work.values, moving_dtype(work))
        ops.add_(values, total)
        store(ops, work.values, values)

    def default_step(self, work: Work, group: Mapping[str, Any]) -> None:
        (momentum,) = parse_momentum(group["momentum"])
        new = [bool(momentum) and not step for step in work.steps]  # no buffer has seen a gradient yet
        if group["fused"] and any(new) and not all(new):  # torch's fused kernel takes all with a buffer, or all without
            for which in (True, False):
                self.default_step(work.select([i for i, is_new in enumerate(new) if is_new == which]), group)
            return
        stored = work.buffers[0] if momentum else []
        buffers: list[Tensor | None] = [None] * len(work.values)
        if momentum:
            buffers = [None if is_new else buffer for buffer, is_new in zip(stored, new, strict=True)]
        sgd(
            work.values,
            work.grads,
            buffers,
            weight_decay=float(group["weight_decay"]),
            momentum=momentum,
            lr=number(group["lr"]),
            dampening=float(group["dampening"]),
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            foreach=group["foreach"],
            fused=group["fused"],
        )
        for kept, buffer, step, is_new in zip(stored, buffers, work.steps, new, strict=False):
            if is_new and buffer is not None:  # torch has made it
                kept.copy_(buffer)
            step += 1


def moving_dtype(work: Work) -> torch.dtype:
    """The precision in which the values move."""
    return torch.promote_types(work.values[0].dtype, work.buffers[0][0].dtype)


def updates(ops: Operations, work: Work, j: int) -> list[Tensor]:
    """The update of candidate ``j``, in the precision in which the values move."""
    numbers: SGDMNumbers = work.numbers
    dtype, place = moving_dtype(work), numbers.first[j]
    if place is None:
        return undelayed(ops, work, cast(filtered(ops, work), dtype))
    buffers = cast(work.buffers[place], dtype)
    if not numbers.nesterov:
        return buffers
    return list(ops.add(cast(filtered(ops, work), dtype), buffers, alpha=numbers.momenta[j]))


def undelayed(ops: Operations, work: Work, grads: list[Tensor]) -> list[Tensor]:
    """What the buffer of a candidate without momentum would hold: the gradients, dampened after the first step."""
    dampening = work.numbers.dampening
    if not dampening:
        return grads
    return list(ops.mul(grads, [1.0 if t == 1 else 1 - dampening for t in torch.stack(work.steps).tolist()]))


class SGDM(GapOptimizer):
    r"""SGD that applies, at every step, the candidate momentum whose buffer is best aligned with the gradient.

    \[
    J_j = \sqrt{1-\mu_j^2}\, \sum g\, \mathrm{buf}_j
    \]

    (arXiv 2512.06370); the buffers and the applied step are ``torch.optim.SGD``'s, and with ``type='default'`` it is
    exactly that.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    ``momentum=None`` means 0; with ``type='mix'`` or ``'mix_parameter_wise'`` it means the candidates of
    ``optim="gap_sgdm_mix"`` and, with ``weights=None``, its weights.

    State per parameter: ``step`` (0-dim) and ``momentum_buffer_0`` ... ``momentum_buffer_{K-1}``, each of the
    parameter's shape and dtype. A candidate without momentum has no buffer: it would be the gradient itself.

    Raises:
        ValueError: an option is out of range.
    """

    family = SGDMFamily()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float | list[float] | None = None,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        type: str = "default",
        weights: Sequence[float] | str | None = None,
        lr_modulation: bool | str = False,
        soft_reset: float = 0.5,
        hysteresis_threshold: int = 5,
        J_ema: float = 0.0,
        seed: int = 0,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        state_dtype: str | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        if momentum is None and is_mix(type):
            momentum, weights = list(MIX_CANDIDATES), list(MIX_WEIGHTS) if weights is None else weights
        elif momentum is None:
            momentum = 0
        super().__init__(params, given(locals()))
