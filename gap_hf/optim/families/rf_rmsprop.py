"""Root-free RMSProp: momentum over gradients divided by their mean square, not its root (arXiv 2402.03496)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..arithmetic.operations import Operations
from ..arithmetic.precision import cast, update
from ..arithmetic.summing import summed
from ..batch_size import BATCH_SIZE, KnowsBatchSize, batch_size
from ..family import Option, modulation
from ..kernels.rf_rmsprop_cpu import RFRMSpropOnCPU
from ..kernels.rf_rmsprop_cuda import RFRMSpropOnCUDA
from ..options import given, is_number, number
from ..work import Buffer, Work
from .common import (
    draws,
    filtered,
    kept_moments,
    momentum_gain,
    numbers_of_text,
    one_over_norm,
    places,
)
from .momentum import MomentumFamily


class RFRMSpropNumbers(NamedTuple):
    """The options as a step of root-free RMSProp needs them.

    Attributes:
        momenta: the K candidates' momenta.
        first: K places among the buffers; None where there is none, because it would be the direction itself.
        gains: K factors of the scores.
        modulation: K factors on the learning rate.
        lr: learning rate; a tensor stays on its device.
        alpha: decay rate of the mean square.
        batch_size: B.
        eps: added to the denominator.
        decay: weight decay, which goes through the momentum.
        l2: none; the decay is not divided by the mean square.
        maximize: take the gradients with the other sign.
        soft_reset: factor on the momentum buffers at a reset.
        stochastic: whether these are rounded stochastically to bfloat16.
    """

    momenta: tuple[float, ...]
    first: tuple[int | None, ...]
    gains: tuple[float, ...]
    modulation: tuple[float, ...]
    lr: float | Tensor
    alpha: float
    batch_size: float
    eps: float
    decay: float = 0.0
    l2: float = 0.0
    maximize: bool = False
    soft_reset: float = 1.0
    stochastic: bool = False


class RFRMSpropFamily(MomentumFamily):
    r"""The arithmetic of root-free RMSProp.

    For each gradient \(g\), the mean over a batch of B items, and momentum \(\mu_j\) (arXiv 2402.03496):

    \[
    v \leftarrow \alpha v + (1-\alpha) B g^2, \qquad r = 1/(v + \epsilon), \qquad d = r g + \lambda p, \qquad
    b_j \leftarrow \mu_j b_j + d, \qquad p \leftarrow p - \eta\, b_j
    \]

    with \(v = 1\) at the beginning. The buffers filter the direction \(d\), which is the gradient
    \(\hat g = d/r = g + \lambda p / r\) in the metric \(1/r\); so, as for Adam, with \(W = \mathrm{mean}(r)\)

    \[
    J_j = \sqrt{1-\mu_j^2}\; W^{-1/2} \sum \hat g\, b_j.
    \]
    """

    # fmt: off
    name, candidate_name, candidate_option = "rf_rmsprop", "momentum", "momentum"
    grid = (0.0, 0.5, 0.8, 0.9, 0.99)
    fused: ClassVar = {"cpu": RFRMSpropOnCPU, "cuda": RFRMSpropOnCUDA}
    examples: ClassVar = (
        {
            "momentum": [0.0, 0.9, 0.95], "lr": 0.1, "alpha": 0.95, "eps": 0.1, "weight_decay": 0.2, "batch_size": 3.0,
            "maximize": True, "lr_modulation": True, "soft_reset": 0.7, "type": "switch", "state_dtype": None,
        },
        {
            "momentum": [0.9, 0.5], "lr": 0.1, "alpha": 0.9, "eps": 0.1, "weight_decay": 0.0, "batch_size": 5.0,
            "maximize": False, "lr_modulation": False, "soft_reset": 0.7, "type": "switch", "state_dtype": None,
        },
    )
    options: ClassVar = {
        "momentum": Option(
            "one number, or a list of K: the candidates.", example="momentum=0.5:0.9:0.99", read=numbers_of_text
        ),
        "batch_size": BATCH_SIZE,
        "alpha": Option(
            "decay rate of the mean square.", lambda x: is_number(x) and 0 <= x < 1, "a number in [0, 1)"
        ),
        "eps": Option("added to the denominator.", lambda x: is_number(x) and x >= 0, "a number >= 0"),
    }
    # fmt: on

    # ------------------------------------------------------------------ options
    def buffers(self, options: Mapping[str, Any]) -> list[Buffer]:
        factor = float(options["soft_reset"])
        kept = [Buffer(f"momentum_buffer_{j}", soft_reset=factor) for j in kept_moments(self, options)]
        # in bfloat16, 0.999 of 1 is 1: the mean square would never leave it
        return [*kept, Buffer("square_avg", compact=False, dtype=torch.float32, fill=1.0, nonnegative=True)]

    def numbers(self, options: Mapping[str, Any]) -> RFRMSpropNumbers:
        momenta = self.parse(options)
        norms = [one_over_norm(m) for m in momenta]
        return RFRMSpropNumbers(
            momenta=tuple(momenta),
            first=places(len(momenta), kept_moments(self, options)),
            gains=tuple(norms),
            modulation=modulation(options, norms, [momentum_gain(m) for m in momenta]),
            lr=number(options["lr"]),
            alpha=float(options["alpha"]),
            batch_size=batch_size(options),
            eps=float(options["eps"]),
            decay=float(options["weight_decay"]),
            maximize=options["maximize"],
            soft_reset=float(options["soft_reset"]),
            stochastic=options["state_dtype"] == "bfloat16",
        )

    # ------------------------------------------------------------------ a step
    def observe(self, ops: Operations, work: Work, answers: list[Tensor]) -> Tensor:
        numbers: RFRMSpropNumbers = work.numbers
        grads, squares = filtered(ops, work), work.buffers[-1]
        wide = cast(grads, squares[0].dtype)
        ops.mul_(squares, numbers.alpha)
        ops.addcmul_(squares, wide, wide, value=(1 - numbers.alpha) * numbers.batch_size)
        direction, denominators = directions(ops, work, grads)
        noise = torch.stack(work.steps).tolist()
        uphill = list(ops.mul(direction, denominators)) if work.scored else []
        dots = []  # sum of (d / r) buf_j
        for j, momentum in enumerate(numbers.momenta):

            def filtering(b: list[Tensor], _: list[Tensor], momentum: float = momentum) -> None:
                ops.mul_(b, momentum)
                ops.add_(b, cast(direction, b[0].dtype))

            place, moment = numbers.first[j], direction
            if place is not None:
                moment = update(ops, work.buffers[place], grads, filtering, draws(numbers, noise, j))
            if work.scored:
                dots.append(summed(ops.mul(uphill, cast(moment, uphill[0].dtype))))
        if not work.scored:
            return torch.zeros(len(grads), 0, dtype=torch.float64, device=grads[0].device)
        ops.reciprocal_(denominators)
        dots.append(summed(denominators))
        return torch.stack(dots, dim=1)

    def direction(self, ops: Operations, work: Work) -> list[Tensor]:
        return directions(ops, work, filtered(ops, work))[0]


def directions(ops: Operations, work: Work, grads: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the directions d and the denominators 1/r, both in the precision of the mean squares."""
    numbers: RFRMSpropNumbers = work.numbers
    squares = work.buffers[-1]
    denominators = list(ops.add(squares, numbers.eps))
    direction = list(ops.div(cast(grads, squares[0].dtype), denominators))
    if numbers.decay:
        ops.add_(direction, cast(work.values, squares[0].dtype), alpha=numbers.decay)
    return direction, denominators


class RFRMSprop(KnowsBatchSize):
    r"""Root-free RMSProp (arXiv 2402.03496): momentum over the gradients divided by B v, not by its square root.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    The decay goes through the momentum, as in ``torch.optim.RMSprop``, but is not divided by the mean square.

    ``batch_size`` has no default, because with a wrong one the steps are wrong. Where it changes from step to step, as
    in a last, smaller batch, set ``param_group['batch_size']``; ``param_group['last_batch_size']`` is what the last
    step used.

    State per parameter: ``step`` (0-dim), ``momentum_buffer_0`` ... ``momentum_buffer_{K-1}`` of the parameter's dtype,
    and ``square_avg`` (1 at the beginning, in float32 at least), each of the parameter's shape. A candidate without
    momentum has no buffer: it would be the direction itself.

    Raises:
        ValueError: an option is out of range, or ``differentiable``.
    """

    family = RFRMSpropFamily()

    def __init__(
        self,
        params: Any,
        lr: float = 5e-3,
        momentum: float | list[float] = 0.9,
        alpha: float = 0.999,
        eps: float = 1e-4,
        weight_decay: float = 0,
        *,
        batch_size: float | str,
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
        super().__init__(params, given(locals()))
