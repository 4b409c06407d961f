"""Adam and AdamW: K first moments share their second moments."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from ...candidate import Candidate
from ..arithmetic.operations import Operations
from ..arithmetic.precision import cast, compute_dtype, store, update
from ..family import Option, Scored, TorchsDefault, modulation
from ..kernels.adam_cpu import AdamOnCPU
from ..kernels.adam_cuda import AdamOnCUDA
from ..options import given, is_flag, is_number, number
from ..shell import GapOptimizer
from ..uploads import constant
from ..work import Buffer, Work
from .common import (
    Betas,
    distinct_beta2,
    filtered,
    kept_moments,
    pairs_of_text,
    parse_betas,
    places,
    salts,
)

RESET_MODES = ("none", "same", "square")


class AdamNumbers(NamedTuple):
    """The options as a step of the Adam family needs them.

    Attributes:
        betas: the K candidates' beta1.
        betas2: the U different beta2.
        first: K places among the buffers: each candidate's first moment; None where it is the gradient itself.
        second: K indices: the second moment that each candidate uses.
        gains: K factors of the scores.
        modulation: K factors on the learning rate.
        lr: learning rate; a tensor stays on its device.
        eps: added to the denominator.
        decay: decoupled weight decay.
        l2: weight decay through the gradient.
        maximize: take the gradients with the other sign.
        soft_reset: factor on the first moments at a reset.
        second_reset: factor on the second moments at a reset.
        stochastic: whether first moments are rounded stochastically to bfloat16.
    """

    betas: tuple[float, ...]
    betas2: tuple[float, ...]
    first: tuple[int | None, ...]
    second: tuple[int, ...]
    gains: tuple[float, ...]
    modulation: tuple[float, ...]
    lr: float | Tensor
    eps: float = 0.0
    decay: float = 0.0
    l2: float = 0.0
    maximize: bool = False
    soft_reset: float = 1.0
    second_reset: float = 1.0
    stochastic: bool = False


class AdamFamily(Scored, TorchsDefault):
    r"""The arithmetic of Adam and AdamW.

    For each gradient \(g\), candidate \(j\) and distinct \(\beta_2\) (``docs/algorithm.md``; arXiv 2512.06370):

    \[
    m_j \leftarrow m_j + (1-\beta_{1,j})(g - m_j), \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
    r = 1/(\sqrt{v/(1-\beta_2^t)} + \epsilon)
    \]
    \[
    J_j = \sqrt{1-\beta_{1,j}^2}\; W^{-1/2} \sum g\, r\, \frac{m_j}{1-\beta_{1,j}}, \qquad W = \mathrm{mean}(r), \qquad
    p \leftarrow p - \eta\, r\, \frac{m_j}{1-\beta_{1,j}^t}
    \]
    """

    # fmt: off
    name, candidate_name, candidate_option = "adam", "beta1", "betas"
    grid = (0.5, 0.8, 0.9, 0.95, 0.99)
    fused: ClassVar = {"cpu": AdamOnCPU, "cuda": AdamOnCUDA}
    examples: ClassVar = (
        {
            "betas": [(0.9, 0.99), (0.88, 0.99)], "lr": 0.1, "eps": 0.1, "weight_decay": 0.3, "lr_modulation": True,
            "decoupled_weight_decay": True, "soft_reset": 0.7, "second_order_momentum_reset_mode": "none",
            "maximize": False, "state_dtype": None, "type": "switch",
        },
        {  # the first has no buffer, and the last two tie
            "betas": [(0.0, 0.99), (0.9, 0.95), (0.9, 0.95)], "lr": 0.1, "eps": 0.1, "weight_decay": 0.2,
            "decoupled_weight_decay": False, "lr_modulation": True, "soft_reset": 0.7,
            "second_order_momentum_reset_mode": "square", "maximize": True, "state_dtype": None, "type": "switch",
        },
    )
    options: ClassVar = {
        "betas": Option(
            "one ``(beta1, beta2)``, or a list of K of them: the candidates.",
            example="betas=0.8:0.99 or, with their own beta2, betas=0.8/0.999:0.99/0.9999",
            read=pairs_of_text,
        ),
        "eps": Option("added to the denominator.", lambda x: is_number(x) and x >= 0, "a number >= 0"),
        "decoupled_weight_decay": Option(
            "decay as AdamW does instead of through the gradient.", is_flag, "True or False", resumed="run"
        ),
        "second_order_momentum_reset_mode": Option(
            "a soft reset leaves the second moments (``'none'``), scales them alike (``'same'``) or by the square "
            "(``'square'``).",
            lambda x: x in RESET_MODES, f"one of {', '.join(RESET_MODES)}",
            example="second_order_momentum_reset_mode=none, same or square", resumed="run, same type",
        ),
    }
    # fmt: on

    # ------------------------------------------------------------------ options
    def parse(self, options: Mapping[str, Any]) -> list[Betas]:
        return parse_betas(options["betas"])

    def candidates(self, options: Mapping[str, Any]) -> list[Candidate]:
        pairs = self.parse(options)
        shared = len(distinct_beta2(pairs)) == 1
        return [Candidate(f"{b1:g}" if shared else f"{b1:g}/{b2:g}", b1, self.name) for b1, b2 in pairs]

    def from_training_arguments(
        self, options: dict[str, Any], given: Mapping[str, Any], adam: Mapping[str, float]
    ) -> None:
        options.setdefault("eps", adam["epsilon"])
        if options["type"] == "default" and "betas" not in given:
            options["betas"] = [adam["beta1"]]
        options["betas"] = [b if isinstance(b, tuple) else (b, adam["beta2"]) for b in options["betas"]]

    def ignored_training_arguments(self, options: Mapping[str, Any]) -> list[str]:
        return [] if options["type"] == "default" else ["adam_beta1"]

    def decays(self, options: Mapping[str, Any]) -> tuple[float, ...]:
        return tuple(beta1 for beta1, _ in self.parse(options))

    def buffers(self, options: Mapping[str, Any]) -> list[Buffer]:
        pairs = self.parse(options)
        soft, second = reset_factors(options)
        return [Buffer(f"exp_avg_{j}", soft_reset=soft) for j in kept_moments(self, options)] + [
            Buffer(f"exp_avg_sq_{u}", compact=False, soft_reset=second, nonnegative=True)
            for u in range(len(distinct_beta2(pairs)))
        ]

    def numbers(self, options: Mapping[str, Any]) -> AdamNumbers:
        pairs = self.parse(options)
        betas2 = distinct_beta2(pairs)
        decoupled, decay = options["decoupled_weight_decay"], float(options["weight_decay"])
        soft, second = reset_factors(options)
        return AdamNumbers(
            betas=tuple(beta1 for beta1, _ in pairs),
            betas2=tuple(betas2),
            first=places(len(pairs), kept_moments(self, options)),
            second=tuple(betas2.index(beta2) for _, beta2 in pairs),
            # sqrt(1 - b1^2) of the filter's norm, over the 1 - b1 that undoes the dampening of the moving average
            gains=tuple(math.sqrt(1 - beta1**2) / (1 - beta1) for beta1, _ in pairs),
            # torch's bias-corrected moving average has unit gain for a constant gradient
            modulation=modulation(options, [nu(beta1) for beta1, _ in pairs], [1.0] * len(pairs)),
            lr=number(options["lr"]),
            eps=float(options["eps"]),
            decay=decay if decoupled else 0.0,
            l2=0.0 if decoupled else decay,
            maximize=options["maximize"],
            soft_reset=soft,
            second_reset=second,
            stochastic=options["state_dtype"] == "bfloat16",
        )

    # ------------------------------------------------------------------ a step
    def observe(self, ops: Operations, work: Work, answers: list[Tensor]) -> Tensor:
        numbers: AdamNumbers = work.numbers
        grads, steps = filtered(ops, work), [step.item() for step in work.steps]
        moments = [second_moments(ops, work, grads, u) for u in range(len(numbers.betas2))]
        if not work.scored:
            for j in range(len(numbers.betas)):
                first_moment(ops, work, grads, steps, j)
            return torch.zeros(len(grads), 0, dtype=torch.float64, device=grads[0].device)
        weighted_grads, sums = [], []  # r g, and sum(r), of each second moment
        for beta2, v in zip(numbers.betas2, moments, strict=True):
            r = list(ops.div(v, [1 - beta2**t for t in steps]))
            ops.sqrt_(r)
            ops.add_(r, numbers.eps)
            ops.reciprocal_(r)
            sums.append([t.sum(dtype=torch.float64) for t in r])
            ops.mul_(r, cast(grads, r[0].dtype))
            weighted_grads.append(r)
        dots = []  # sum(g r m_j)
        for j in range(len(numbers.betas)):
            products = ops.mul(weighted_grads[numbers.second[j]], first_moment(ops, work, grads, steps, j))
            dots.append([t.sum(dtype=torch.float64) for t in products])
        return torch.stack([torch.stack(column) for column in dots + sums], dim=1)

    def sums(self, numbers: AdamNumbers) -> int:
        return len(numbers.betas) + len(numbers.betas2)

    def scores(self, numbers: AdamNumbers, sums: Tensor, numel: Tensor) -> Tensor:
        K = len(numbers.betas)
        gains = constant(numbers.gains, sums.dtype, sums.device)
        W = sums[:, K:] / numel.unsqueeze(1)
        if len(numbers.betas2) > 1:
            W = W.index_select(1, constant(numbers.second, torch.int64, sums.device))
        # a parameter without elements scores 0, not 0 / 0
        return torch.where(numel.unsqueeze(1) > 0, gains * sums[:, :K] / W.sqrt(), 0.0)

    def apply(self, ops: Operations, work: Work, answers: list[Tensor], candidate: int) -> None:
        numbers: AdamNumbers = work.numbers
        beta1, lr = numbers.betas[candidate], float(numbers.lr)
        steps = [step.item() for step in work.steps]
        dtype, values = wide_values(work)
        moment = cast(moment_of(ops, work, candidate), dtype)
        if numbers.decay:
            ops.mul_(values, 1 - lr * numbers.decay)
        step_sizes = [-lr * numbers.modulation[candidate] / (1 - beta1**t) for t in steps]
        ops.addcdiv_(values, moment, denominators(ops, work, steps, numbers.second[candidate], dtype), step_sizes)
        store(ops, work.values, values)

    def mix(self, ops: Operations, work: Work, answers: list[Tensor], weights: Sequence[Sequence[float]]) -> None:
        numbers: AdamNumbers = work.numbers
        lr, steps = float(numbers.lr), [step.item() for step in work.steps]
        dtype, values = wide_values(work)
        moments = [cast(moment_of(ops, work, j), dtype) for j in range(len(numbers.betas))]
        if numbers.decay:
            ops.mul_(values, 1 - lr * numbers.decay)
        for u in range(len(numbers.betas2)):
            total: list[Tensor] = []
            for j, beta1 in enumerate(numbers.betas):
                if numbers.second[j] != u:
                    continue
                rate = -lr * numbers.modulation[j]
                sizes = [rate * of_each[j] / (1 - beta1**t) for of_each, t in zip(weights, steps, strict=True)]
                if total:
                    ops.add_(total, list(ops.mul(moments[j], sizes)))
                else:
                    total = list(ops.mul(moments[j], sizes))
            ops.div_(total, denominators(ops, work, steps, u, dtype))
            ops.add_(values, total)
        store(ops, work.values, values)

    def default_step(self, work: Work, group: Mapping[str, Any]) -> None:
        ((beta1, beta2),) = parse_betas(group["betas"])
        # torch's lists of tensors take a learning rate in a tensor only where a CUDA graph changes it
        lr = float(group["lr"]) if group["foreach"] and not group["capturable"] else number(group["lr"])
        function = adamw if group["decoupled_weight_decay"] else adam
        function(
            work.values,
            work.grads,
            work.buffers[0],
            work.buffers[1],
            [],
            work.steps,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=float(group["weight_decay"]),
            eps=float(group["eps"]),
            maximize=group["maximize"],
            foreach=group["foreach"],
            fused=group["fused"],
            capturable=group["capturable"],
        )


def second_moments(ops: Operations, work: Work, grads: list[Tensor], u: int) -> list[Tensor]:
    """Update second moment ``u`` by the gradients, and return it in the precision of the scores."""
    numbers: AdamNumbers = work.numbers
    beta2 = numbers.betas2[u]

    def operation(v: list[Tensor], g: list[Tensor]) -> None:
        ops.mul_(v, beta2)
        ops.addcmul_(v, g, g, value=1 - beta2)

    return update(ops, work.buffers[u - len(numbers.betas2)], grads, operation)


def first_moment(ops: Operations, work: Work, grads: list[Tensor], steps: list[float], j: int) -> list[Tensor]:
    """Update the first moment of candidate ``j`` by the gradients, and return it in the precision of the scores."""
    numbers: AdamNumbers = work.numbers
    place = numbers.first[j]
    if place is None:
        return cast(grads, compute_dtype(grads[0].dtype))
    return update(
        ops,
        work.buffers[place],
        grads,
        lambda m, g: ops.lerp_(m, g, 1 - numbers.betas[j]),
        salts(numbers, steps, j),
    )


def moment_of(ops: Operations, work: Work, j: int) -> list[Tensor]:
    """The first moment of candidate ``j``, as ``first_moment`` has left it."""
    place = work.numbers.first[j]
    return filtered(ops, work) if place is None else work.buffers[place]


def wide_values(work: Work) -> tuple[torch.dtype, list[Tensor]]:
    """The precision in which the values move, and the values in it."""
    dtype = torch.promote_types(work.values[0].dtype, work.buffers[-1][0].dtype)
    return dtype, cast(work.values, dtype)


def denominators(ops: Operations, work: Work, steps: list[float], u: int, dtype: torch.dtype) -> list[Tensor]:
    """The denominators of the step, with second moment ``u``."""
    betas2 = work.numbers.betas2
    found = list(ops.sqrt(cast(work.buffers[u - len(betas2)], dtype)))
    ops.div_(found, [(1 - betas2[u] ** t) ** 0.5 for t in steps])
    ops.add_(found, work.numbers.eps)
    return found


class Adam(GapOptimizer):
    r"""Adam that applies, at every step, the candidate \(\beta_1\) whose update is best aligned with the gradient.

    Per candidate \(j\), with one second moment per distinct \(\beta_2\) and
    \(r = 1/(\sqrt{\hat v} + \epsilon)\):

    \[
    J_j = \sqrt{1-\beta_{1,j}^2}\; W^{-1/2} \sum g\, r\, \frac{m_j}{1-\beta_{1,j}}, \qquad W = \mathrm{mean}(r)
    \]

    and the applied step is ``torch.optim.Adam``'s with the best candidate's moment
    (arXiv 2512.06370; ``docs/algorithm.md`` lists what the paper leaves open and how it is decided here).
    With ``type='default'`` it is exactly ``torch.optim.Adam`` or ``AdamW``.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    State per parameter: ``step`` (0-dim), ``exp_avg_0`` ... ``exp_avg_{K-1}`` and ``exp_avg_sq_0`` ... (one per
    distinct beta2), each of the parameter's shape and dtype. A candidate with beta1 = 0 has no ``exp_avg_j``, which
    would be the gradient itself.

    Raises:
        ValueError: an option is out of range, or ``differentiable``.
    """

    family = AdamFamily()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Betas | Sequence[Betas] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        type: str = "default",
        weights: Sequence[float] | str | None = None,
        lr_modulation: bool | str = False,
        soft_reset: float = 0.9,
        hysteresis_threshold: int = 10,
        second_order_momentum_reset_mode: str = "none",
        J_ema: float = 0.0,
        seed: int = 0,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        state_dtype: str | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, given(locals()))


def reset_factors(options: Mapping[str, Any]) -> tuple[float, float]:
    """The factors by which a soft reset multiplies first and second moments."""
    factor = float(options["soft_reset"])
    return factor, {"none": 1.0, "same": factor, "square": factor**2}[options["second_order_momentum_reset_mode"]]


def nu(beta1: float) -> float:
    """The factor by which ``lr_modulation`` multiplies a step with ``beta1``, so that it has unit power."""
    return math.sqrt((1 + beta1) / (1 - beta1))
