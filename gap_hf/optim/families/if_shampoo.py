"""Inverse-free Shampoo: a factor for each axis of a tensor, made by matrix products alone (arXiv 2402.03496)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..arithmetic.kronecker import axes_of, identity, precondition, renew, trace
from ..arithmetic.operations import Operations
from ..arithmetic.precision import cast, update
from ..batch_size import BATCH_SIZE, KnowsBatchSize, batch_size
from ..family import Grain, Option, modulation
from ..options import given, is_count, is_number, number
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


class IFShampooNumbers(NamedTuple):
    """The options as a step of inverse-free Shampoo needs them.

    Attributes:
        momenta: the K candidates' momenta.
        first: K places among the buffers; None where there is none, because it would be the direction itself.
        gains: K factors of the scores.
        modulation: K factors on the learning rate.
        lr: learning rate; a tensor stays on its device.
        beta2: step size of the factors.
        alpha2: their momentum.
        damping: lambda.
        batch_size: B.
        interval: after how many steps the factors are updated again.
        max_axis: the longest axis with a dense factor.
        decay: weight decay, which goes through the momentum.
        l2: none; the decay does not pass through the factors.
        maximize: take the gradients with the other sign.
        soft_reset: factor on the momentum buffers at a reset.
        stochastic: whether these are rounded stochastically to bfloat16.
    """

    momenta: tuple[float, ...]
    first: tuple[int | None, ...]
    gains: tuple[float, ...]
    modulation: tuple[float, ...]
    lr: float | Tensor
    beta2: float
    alpha2: float
    damping: float
    batch_size: float
    interval: int
    max_axis: int
    decay: float = 0.0
    l2: float = 0.0
    maximize: bool = False
    soft_reset: float = 1.0
    stochastic: bool = False


class IFShampooFamily(MomentumFamily):
    r"""The arithmetic of inverse-free Shampoo.

    For each gradient \(G\), the mean over a batch of B items, with a factor \(K_n\) and its momentum \(m_n\) for each
    axis n of length \(d_n\) (\(I\) and 0 at the beginning), and momentum \(\mu_j\) (arXiv 2402.03496):

    \[
    M = \mathrm{mat}_n\bigl(\sqrt B\; G \times_1 K_1^\top \times_2 K_2^\top \cdots\bigr), \qquad
    c_n = \prod_{i \ne n} \mathrm{tr}(K_i^\top K_i)/d_i
    \]
    \[
    m_n \leftarrow \alpha_2 m_n + \tfrac{1-\alpha_2}{2} \Bigl(\lambda c_n K_n^\top K_n +
    M M^\top / \textstyle\prod_{i \ne n} d_i - I\Bigr), \qquad
    K_n \leftarrow K_n \bigl(I - \beta_2 m_n / \max(1, \lVert m_n \rVert)\bigr)
    \]
    \[
    D = G \times_1 K_1 K_1^\top \times_2 K_2 K_2^\top \cdots + \kappa p, \qquad
    b_j \leftarrow \mu_j b_j + D, \qquad p \leftarrow p - \eta\, b_j
    \]

    A diagonal factor keeps the diagonal of all of these. With \(P = \bigotimes_n K_n K_n^\top\) the direction is
    \(P G\), the gradient in the metric \(P^{-1}\), so with \(W = \mathrm{tr}(P)/\mathrm{numel} = \prod_n
    \lVert K_n \rVert^2/d_n\) the score is that of root-free RMSProp, where P is diagonal:

    \[
    J_j = \sqrt{1-\mu_j^2}\; W^{-1/2} \sum G\, b_j.
    \]

    The decay is left out of the gradient here: what it is in the metric, \(\kappa P^{-1} p\), needs the inverse.
    """

    # fmt: off
    name, candidate_name, candidate_option = "if_shampoo", "momentum", "momentum"
    grain = Grain.GRADIENT
    grid = (0.0, 0.5, 0.8, 0.9, 0.99)
    options: ClassVar = {
        "momentum": Option(
            "one number, or a list of K: the candidates.", example="momentum=0.5:0.9:0.99", read=numbers_of_text
        ),
        "batch_size": BATCH_SIZE,
        "beta2": Option("step size of the factors.", lambda x: is_number(x) and 0 <= x < 1, "a number in [0, 1)"),
        "alpha2": Option("momentum of the factors.", lambda x: is_number(x) and 0 <= x < 1, "a number in [0, 1)"),
        "damping": Option(
            "lambda, added to the curvature.", lambda x: is_number(x) and 0 <= x < float("inf"), "a number >= 0"
        ),
        "update_interval": Option(
            "T: a parameter's factors are updated at its first step, and at every T-th after it.",
            lambda x: is_count(x) and x >= 1, "a whole number of steps >= 1",
        ),
        "max_axis": Option(
            "the longest axis with a dense factor; a longer one, like a vocabulary, has a diagonal factor.",
            lambda x: is_count(x) and x >= 1, "a whole number >= 1",
        ),
    }
    # fmt: on

    # ------------------------------------------------------------------ options
    def buffers(self, options: Mapping[str, Any]) -> list[Buffer]:
        soft_reset, longest = float(options["soft_reset"]), int(options["max_axis"])

        def size(shape: torch.Size) -> torch.Size:
            return torch.Size([sum(axis.size for axis in axes_of(shape, longest))])

        def start(factors: Tensor, shape: torch.Size) -> None:
            identity(axes_of(shape, longest), factors)

        # how many axes there are differs from parameter to parameter, so their factors share one flat buffer. A step
        # changes a factor by at most beta2, 1 %, spread over all its elements; bfloat16 would leave most where they are
        def exact(name: str, fill: Any = 0.0) -> Buffer:
            return Buffer(name, shape=size, compact=False, dtype=torch.float32, fill=fill)

        kept = [Buffer(f"momentum_buffer_{j}", soft_reset=soft_reset) for j in kept_moments(self, options)]
        return [*kept, exact("factors", start), exact("factor_momenta")]

    def numbers(self, options: Mapping[str, Any]) -> IFShampooNumbers:
        momenta = self.parse(options)
        norms = [one_over_norm(m) for m in momenta]
        return IFShampooNumbers(
            momenta=tuple(momenta),
            first=places(len(momenta), kept_moments(self, options)),
            gains=tuple(norms),
            modulation=modulation(options, norms, [momentum_gain(m) for m in momenta]),
            lr=number(options["lr"]),
            beta2=float(options["beta2"]),
            alpha2=float(options["alpha2"]),
            damping=float(options["damping"]),
            batch_size=batch_size(options),
            interval=int(options["update_interval"]),
            max_axis=int(options["max_axis"]),
            decay=float(options["weight_decay"]),
            maximize=options["maximize"],
            soft_reset=float(options["soft_reset"]),
            stochastic=options["state_dtype"] == "bfloat16",
        )

    # ------------------------------------------------------------------ a step
    def observe(self, ops: Operations, work: Work, answers: list[Tensor]) -> Tensor:
        numbers: IFShampooNumbers = work.numbers
        grads, factors = filtered(ops, work), work.buffers[-2]
        wide, counts = cast(grads, factors[0].dtype), [step.item() for step in work.steps]
        sizes = numbers.batch_size, numbers.beta2, numbers.alpha2, numbers.damping
        wholes = whole_gradients(ops, work)
        for whole, count, K, m in zip(wholes, counts, factors, work.buffers[-1], strict=True):
            if (count - 1) % numbers.interval == 0:
                renew(whole, axes_of(whole.shape, numbers.max_axis), K, m, *sizes)
        direction = directions(ops, work, wholes)
        dots = []  # sum of g buf_j
        for j, momentum in enumerate(numbers.momenta):

            def filtering(b: list[Tensor], _: list[Tensor], momentum: float = momentum) -> None:
                ops.mul_(b, momentum)
                ops.add_(b, cast(direction, b[0].dtype))

            place, moment = numbers.first[j], direction
            if place is not None:
                moment = update(ops, work.buffers[place], grads, filtering, draws(numbers, counts, j))
            if work.scored:
                dots.append([t.sum(dtype=torch.float64) for t in ops.mul(wide, cast(moment, wide[0].dtype))])
        if not work.scored:
            return torch.zeros(len(grads), 0, dtype=torch.float64, device=grads[0].device)
        traces = []  # each piece has its share
        for p, whole, flat in zip(work.values, wholes, factors, strict=True):
            share = p.numel() / whole.numel() if p.numel() else 0.0
            traces.append(trace(axes_of(whole.shape, numbers.max_axis), flat) * share)
        dots.append(traces)
        return torch.stack([torch.stack(column) for column in dots], dim=1)

    def direction(self, ops: Operations, work: Work) -> list[Tensor]:
        return directions(ops, work, whole_gradients(ops, work))


def whole_gradients(ops: Operations, work: Work) -> list[Tensor]:
    """Return the gradients of the whole parameters, in the precision of the factors."""
    wholes = work.grads if work.wholes is None else work.wholes
    return cast(list(ops.neg(wholes)) if work.numbers.maximize else wholes, work.buffers[-2][0].dtype)


def directions(ops: Operations, work: Work, wholes: list[Tensor]) -> list[Tensor]:
    """Return the directions D of the values, in the precision of the factors."""
    numbers: IFShampooNumbers = work.numbers
    pairs = zip(wholes, work.buffers[-2], strict=True)
    found = [precondition(g, axes_of(g.shape, numbers.max_axis), factors) for g, factors in pairs]
    if work.within is not None:
        pieces = zip(found, work.within, work.values, strict=True)
        found = [direction.flatten()[place].view(p.shape) for direction, place, p in pieces]
    if numbers.decay:
        found = list(ops.add(found, cast(work.values, wholes[0].dtype), alpha=numbers.decay))
    return found


class IFShampoo(KnowsBatchSize):
    r"""Inverse-free Shampoo (arXiv 2402.03496), with a factor for each axis and momentum over the directions.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    ``lr``, ``beta2`` and ``alpha2`` are the paper's; ``momentum`` is its alpha1, ``damping`` its lambda,
    ``weight_decay`` its kappa, which goes through the momentum, and ``update_interval`` its T.

    Axes of length 1 have no factor, and a parameter of one element has one of length 1. ``batch_size`` has no default,
    because with a wrong one the steps are wrong; ``param_group['last_batch_size']`` is what the last step used.

    State per parameter: ``step`` (0-dim), ``momentum_buffer_0`` ... ``momentum_buffer_{K-1}`` of the parameter's shape
    and dtype, and ``factors`` and ``factor_momenta``, in float32 at least: one after another, row by row, the ``(d,
    d)`` matrices of all axes, or the ``(d,)`` diagonals of those longer than ``max_axis``. A candidate without
    momentum has no buffer: it would be the direction itself.

    Raises:
        ValueError: an option is out of range, or ``differentiable``.
    """

    family = IFShampooFamily()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float | list[float] = 0.9,
        beta2: float = 0.01,
        alpha2: float = 0.5,
        damping: float = 1e-3,
        weight_decay: float = 0,
        *,
        batch_size: float | str,
        update_interval: int = 1,
        max_axis: int = 4096,
        type: str = "default",
        weights: Sequence[float] | str | None = None,
        lr_modulation: bool | str = False,
        soft_reset: float = 0.5,
        hysteresis_threshold: int = 5,
        J_ema: float = 0.0,
        seed: int = 0,
        foreach: bool | None = None,
        fused: bool | None = None,
        state_dtype: str | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, given(locals()))
