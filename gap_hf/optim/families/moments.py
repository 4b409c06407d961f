"""Families whose K first moments share their second moments: Adam's and root-free AdamW's arithmetic."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...candidate import Candidate
from ..arithmetic import eight_bit
from ..arithmetic.operations import Operations
from ..arithmetic.precision import cast, compute_dtype, store, update
from ..arithmetic.summing import summed
from ..batch_size import batch_size
from ..family import Option, Scored, modulation
from ..options import is_number, number
from ..uploads import constant
from ..work import Buffer, Relative, Work
from .common import Betas, distinct_beta2, draws, filtered, kept_moments, pairs_of_text, parse_betas, places

RESET_MODES = ("none", "same", "square")
OPTIONS: Mapping[str, Option] = {
    "betas": Option(
        "one ``(beta1, beta2)``, or a list of K of them: the candidates.",
        example="betas=0.8:0.99 or, with their own beta2, betas=0.8/0.999:0.99/0.9999",
        read=pairs_of_text,
    ),
    "eps": Option("added to the denominator.", lambda x: is_number(x) and x >= 0, "a number >= 0"),
    "second_order_momentum_reset_mode": Option(
        "a soft reset leaves the second moments (``'none'``), scales them alike (``'same'``) or by the square "
        "(``'square'``).",
        lambda x: x in RESET_MODES,
        f"one of {', '.join(RESET_MODES)}",
        example="second_order_momentum_reset_mode=none, same or square",
        resumed="run, same type",
    ),
}
"""The options that these families have in common."""


class MomentNumbers(NamedTuple):
    """The options as a step of these families needs them.

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
        stochastic: whether first moments are rounded stochastically, to bfloat16 or 8 bits.
        exponents: each candidate's exponent in 8 bits; empty if one can't be stored so.
        batch_size: B of a root-free family, which has no roots and no bias corrections; None for Adam.
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
    exponents: tuple[int, ...] = ()
    batch_size: float | None = None


class Moments(Scored):
    r"""The arithmetic that these families share.

    For each gradient \(g\), candidate \(j\) and distinct \(\beta_2\):

    \[
    m_j \leftarrow m_j + (1-\beta_{1,j})(g - m_j), \quad v \leftarrow \beta_2 v + (1-\beta_2)\, s\, g^2
    \]
    \[
    J_j = \sqrt{1-\beta_{1,j}^2}\; W^{-1/2} \sum g\, r\, \frac{m_j}{1-\beta_{1,j}}, \qquad W = \mathrm{mean}(r), \qquad
    p \leftarrow p - \eta\, r\, \frac{m_j}{c_j}
    \]

    Adam has \(s = 1\), \(r = 1/(\sqrt{v/(1-\beta_2^t)} + \epsilon)\) and \(c_j = 1-\beta_{1,j}^t\); a root-free family,
    with batches of B, \(s = B\), \(r = 1/(v + \epsilon)\) and \(c_j = 1\).
    """

    root_free: ClassVar[bool] = False
    """Whether the second moments are of B g^2, begin with 1, and divide without a root."""

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
        betas2 = distinct_beta2(pairs)
        # a root-free one in bfloat16 would stay what it was at the beginning: 0.999 of 1 is 1 there
        fill, dtype = (1.0, torch.float32) if self.root_free else (0.0, None)
        exponents, first = self.exponents(pairs), []
        for j in kept_moments(self, options):
            name = f"exp_avg_sq_{betas2.index(pairs[j][1])}"
            relative = Relative(name, exponents[j]) if exponents else None
            first.append(Buffer(f"exp_avg_{j}", soft_reset=soft, relative=relative))
        return first + [
            Buffer(f"exp_avg_sq_{u}", compact=False, dtype=dtype, fill=fill, soft_reset=second, nonnegative=True)
            for u in range(len(betas2))
        ]

    def exponents(self, pairs: list[Betas]) -> tuple[int, ...]:
        """Each candidate's exponent in 8 bits (``arithmetic/eight_bit.py``); empty if one can't be stored so."""
        found = [None if self.root_free else eight_bit.exponent(*pair) for pair in pairs]  # root-free: v begins with 1
        return () if None in found else tuple(d for d in found if d is not None)

    def not_in_eight_bits(self, options: Mapping[str, Any]) -> str:
        if self.root_free:
            return super().not_in_eight_bits(options)
        pair = next(pair for pair in self.parse(options) if eight_bit.exponent(*pair) is None)
        return (
            f"needs beta1^2 < beta2, so that the first moment is bounded by the second one, but a candidate has "
            f"(beta1, beta2) = {pair}, and {pair[0]}^2 = {pair[0] ** 2:.4g}"
        )

    def numbers(self, options: Mapping[str, Any]) -> MomentNumbers:
        pairs = self.parse(options)
        betas2 = distinct_beta2(pairs)
        decoupled, decay = options.get("decoupled_weight_decay", True), float(options["weight_decay"])
        soft, second = reset_factors(options)
        return MomentNumbers(
            betas=tuple(beta1 for beta1, _ in pairs),
            betas2=tuple(betas2),
            first=places(len(pairs), kept_moments(self, options)),
            second=tuple(betas2.index(beta2) for _, beta2 in pairs),
            # sqrt(1 - b1^2) of the filter's norm, over the 1 - b1 that undoes the dampening of the moving average
            gains=tuple(math.sqrt(1 - beta1**2) / (1 - beta1) for beta1, _ in pairs),
            # a moving average has unit gain for a constant gradient
            modulation=modulation(options, [nu(beta1) for beta1, _ in pairs], [1.0] * len(pairs)),
            lr=number(options["lr"]),
            eps=float(options["eps"]),
            decay=decay if decoupled else 0.0,
            l2=0.0 if decoupled else decay,
            maximize=options["maximize"],
            soft_reset=soft,
            second_reset=second,
            stochastic=options["state_dtype"] in ("bfloat16", "8bit"),
            exponents=self.exponents(pairs),
            batch_size=batch_size(options) if self.root_free else None,
        )

    # ------------------------------------------------------------------ a step
    def observe(self, ops: Operations, work: Work, answers: list[Tensor]) -> Tensor:
        numbers: MomentNumbers = work.numbers
        grads, steps = filtered(ops, work), counts(work)
        held = in_eight_bits(work)  # before the second moments move, which their exponents are counted from
        moments = [second_moments(ops, work, grads, u) for u in range(len(numbers.betas2))]
        if not work.scored:
            for j in range(len(numbers.betas)):
                first_moment(ops, work, grads, steps, j, held)
            return torch.zeros(len(grads), 0, dtype=torch.float64, device=grads[0].device)
        weighted_grads, scales, sums = [], [], []  # r g, without the bias correction of r, and sum(r)
        for u, v in enumerate(moments):
            c = roots_of_corrections(numbers, u, steps)
            if numbers.batch_size is None:  # c / (sqrt(v) + c eps): where c meets the sum it costs nothing
                r = list(ops.sqrt(v))
                ops.add_(r, alike([numbers.eps * root for root in c]))
            else:
                r = list(ops.add(v, numbers.eps))
            ops.reciprocal_(r)
            total = summed(r)
            scales.append(torch.tensor(c, dtype=torch.float64, device="cpu").to(total.device, non_blocking=True))
            sums.append(total * scales[u])
            ops.mul_(r, cast(grads, r[0].dtype))
            weighted_grads.append(r)
        dots = []  # sum(g r m_j)
        for j in range(len(numbers.betas)):
            u = numbers.second[j]
            products, moment = weighted_grads[u], first_moment(ops, work, grads, steps, j, held)
            if u in numbers.second[j + 1 :]:
                products = list(ops.mul(products, moment))
            else:  # nobody needs r g any more
                ops.mul_(products, moment)
            dots.append(summed(products) * scales[u])
        return torch.stack(dots + sums, dim=1)

    def sums(self, numbers: MomentNumbers) -> int:
        return len(numbers.betas) + len(numbers.betas2)

    def scores(self, numbers: MomentNumbers, sums: Tensor, numel: Tensor) -> Tensor:
        K = len(numbers.betas)
        gains = constant(numbers.gains, sums.dtype, sums.device)
        W = sums[:, K:] / numel.unsqueeze(1)
        if len(numbers.betas2) > 1:
            W = W.index_select(1, constant(numbers.second, torch.int64, sums.device))
        # a parameter without elements scores 0, not 0 / 0
        return torch.where(numel.unsqueeze(1) > 0, gains * sums[:, :K] / W.sqrt(), 0.0)

    def apply(self, ops: Operations, work: Work, answers: list[Tensor], candidate: int) -> None:
        numbers: MomentNumbers = work.numbers
        lr, steps, u = float(numbers.lr), counts(work), numbers.second[candidate]
        dtype, values = wide_values(work)
        moment = cast(moment_of(ops, work, candidate), dtype)
        if numbers.decay:
            ops.mul_(values, 1 - lr * numbers.decay)
        step_sizes = [-lr * numbers.modulation[candidate] / c for c in corrections(numbers, candidate, steps)]
        ops.addcdiv_(values, moment, denominators(ops, work, steps, u, dtype), alike(step_sizes))
        store(ops, work.values, values)

    def mix(self, ops: Operations, work: Work, answers: list[Tensor], weights: Sequence[Sequence[float]]) -> None:
        numbers: MomentNumbers = work.numbers
        lr, steps = float(numbers.lr), counts(work)
        dtype, values = wide_values(work)
        moments = [cast(moment_of(ops, work, j), dtype) for j in range(len(numbers.betas))]
        if numbers.decay:
            ops.mul_(values, 1 - lr * numbers.decay)
        for u in range(len(numbers.betas2)):
            total: list[Tensor] = []
            for j in range(len(numbers.betas)):
                if numbers.second[j] != u:
                    continue
                rate, found = -lr * numbers.modulation[j], corrections(numbers, j, steps)
                sizes = [rate * of_each[j] / c for of_each, c in zip(weights, found, strict=True)]
                scaled = list(ops.mul(moments[j], alike(sizes)))
                if total:
                    ops.add_(total, scaled)
                else:
                    total = scaled
            ops.div_(total, denominators(ops, work, steps, u, dtype))
            ops.add_(values, total)
        store(ops, work.values, values)


def second_moments(ops: Operations, work: Work, grads: list[Tensor], u: int) -> list[Tensor]:
    """Update second moment ``u`` by the gradients, and return it in the precision of the scores."""
    numbers: MomentNumbers = work.numbers
    beta2, size = numbers.betas2[u], numbers.batch_size

    def operation(v: list[Tensor], g: list[Tensor]) -> None:
        ops.mul_(v, beta2)
        ops.addcmul_(v, g, g, value=(1 - beta2) * (1.0 if size is None else size))

    return update(ops, work.buffers[u - len(numbers.betas2)], grads, operation)


def first_moment(
    ops: Operations, work: Work, grads: list[Tensor], steps: list[float], j: int, held: list[list[Tensor]] | None
) -> list[Tensor]:
    """Update the first moment of candidate ``j`` by the gradients, and return it in the precision of the scores.

    In 8 bits that is the moment before rounding, and ``held`` is what ``in_eight_bits`` returned before the second
    moments moved.
    """
    numbers: MomentNumbers = work.numbers
    place = numbers.first[j]
    if place is None:
        return cast(grads, compute_dtype(grads[0].dtype))
    if held is not None:
        wide, moment = cast(grads, torch.float32), held[place]
        ops.lerp_(moment, wide, 1 - numbers.betas[j])
        draw = draws(numbers, steps, j)
        assert draw is not None
        for code, m, floor, g, which in zip(work.buffers[place], moment, floors(work, j), wide, draw, strict=True):
            code.copy_(eight_bit.encode(m, floor, eight_bit.noise(g, code, which)))
        return with_nan(moment, work, j)
    return update(
        ops,
        work.buffers[place],
        grads,
        lambda m, g: ops.lerp_(m, g, 1 - numbers.betas[j]),
        draws(numbers, steps, j),
    )


def moment_of(ops: Operations, work: Work, j: int) -> list[Tensor]:
    """The first moment of candidate ``j``, as ``first_moment`` has left it."""
    place = work.numbers.first[j]
    if place is None:
        return filtered(ops, work)
    if work.buffers[place][0].dtype != torch.uint8:
        return work.buffers[place]
    return with_nan(decoded(work, j), work, j)


def with_nan(moment: list[Tensor], work: Work, j: int) -> list[Tensor]:
    """The first moment of candidate ``j``, and NaN where its second one shows a gradient that was not finite.

    No code of 8 bits is NaN.
    """
    return [m + v * 0.0 for m, v in zip(moment, seconds(work, j), strict=True)]


def decoded(work: Work, j: int) -> list[Tensor]:
    """The first moment of candidate ``j`` as its codes of 8 bits have it, float32."""
    codes = work.buffers[work.numbers.first[j]]
    return [eight_bit.decode(code, floor) for code, floor in zip(codes, floors(work, j), strict=True)]


def in_eight_bits(work: Work) -> list[list[Tensor]] | None:
    """The kept first moments as their codes of 8 bits have them, float32; None if they have none."""
    if work.buffers[0][0].dtype != torch.uint8:
        return None
    return [decoded(work, j) for j, place in enumerate(work.numbers.first) if place is not None]


def floors(work: Work, j: int) -> list[Tensor]:
    """What the codes of candidate ``j`` are counted from, by the second moments as they are now."""
    return [eight_bit.floors(v, work.numbers.exponents[j]) for v in seconds(work, j)]


def seconds(work: Work, j: int) -> list[Tensor]:
    """The second moments that candidate ``j`` uses, float32."""
    numbers: MomentNumbers = work.numbers
    return cast(work.buffers[numbers.second[j] - len(numbers.betas2)], torch.float32)


def wide_values(work: Work) -> tuple[torch.dtype, list[Tensor]]:
    """The precision in which the values move, and the values in it."""
    dtype = torch.promote_types(work.values[0].dtype, work.buffers[-1][0].dtype)
    return dtype, cast(work.values, dtype)


def denominators(ops: Operations, work: Work, steps: list[float], u: int, dtype: torch.dtype) -> list[Tensor]:
    """The denominators of the step, with second moment ``u``."""
    numbers: MomentNumbers = work.numbers
    stored = cast(work.buffers[u - len(numbers.betas2)], dtype)
    if numbers.batch_size is not None:
        return list(ops.add(stored, numbers.eps))
    found = list(ops.sqrt(stored))
    ops.div_(found, alike(roots_of_corrections(numbers, u, steps)))
    ops.add_(found, numbers.eps)
    return found


def counts(work: Work) -> list[float]:
    """The counts of steps, read all at once."""
    return torch.stack(work.steps).tolist()


def alike(numbers: list[float]) -> list[float] | float:
    """Return one number if all are the same, which torch's operations on lists take faster."""
    return numbers[0] if len(set(numbers)) == 1 else numbers


def roots_of_corrections(numbers: MomentNumbers, u: int, steps: list[float]) -> list[float]:
    """The roots of the bias corrections of second moment ``u``, by which its own root is divided."""
    return [1.0 if numbers.batch_size is not None else (1 - numbers.betas2[u] ** t) ** 0.5 for t in steps]


def corrections(numbers: MomentNumbers, j: int, steps: list[float]) -> list[float]:
    """The bias corrections of first moment ``j``, by which it is divided."""
    return [1 - numbers.betas[j] ** t if numbers.batch_size is None else 1.0 for t in steps]


def reset_factors(options: Mapping[str, Any]) -> tuple[float, float]:
    """The factors by which a soft reset multiplies first and second moments."""
    factor = float(options["soft_reset"])
    return factor, {"none": 1.0, "same": factor, "square": factor**2}[options["second_order_momentum_reset_mode"]]


def nu(beta1: float) -> float:
    """The factor by which ``lr_modulation`` multiplies a step with ``beta1``, so that it has unit power."""
    return math.sqrt((1 + beta1) / (1 - beta1))
