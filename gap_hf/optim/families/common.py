"""Functions that several families use in their formulas and options."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..arithmetic.operations import Operations
from ..arithmetic.rounding import Draw
from ..family import Scored
from ..options import is_number
from ..work import Work

Betas = tuple[float, float]


def filtered(ops: Operations, work: Work) -> list[Tensor]:
    """The gradients that enter the filter, with the L2 term if the decay is not decoupled."""
    grads = list(ops.neg(work.grads)) if work.numbers.maximize else work.grads
    if work.numbers.l2:
        return list(ops.add(grads, work.values, alpha=work.numbers.l2))
    return grads


def draws(numbers: Any, steps: list[float], j: int) -> list[Draw] | None:
    """Which noise moment ``j`` is rounded by, or None if it is rounded to the nearest."""
    return [Draw(int(t), j) for t in steps] if numbers.stochastic else None


def rescaled(moment: Tensor, factor: float) -> Tensor:
    """Return a copy of ``moment``, times ``factor``; by 1 it stays what it is, bit for bit."""
    return moment.detach().clone() if factor == 1 else moment.detach() * factor


def numbers_of_text(text: str) -> list[float]:
    """Read ``'0.5:0.9'`` from ``optim_args`` as ``[0.5, 0.9]``. Raises ValueError."""
    return [float(number) for number in text.split(":")]


def pairs_of_text(text: str) -> list[Any]:
    """Read ``'0.8:0.99'`` as ``[0.8, 0.99]``, and ``'0.8/0.9:0.99/0.999'`` as ``[(0.8, 0.9), (0.99, 0.999)]``.

    Raises:
        ValueError: the text is neither.
    """
    values: list[Any] = []
    for part in text.split(":"):
        numbers = [float(number) for number in part.split("/")]
        if len(numbers) > 2:
            raise ValueError(part)
        values.append(tuple(numbers) if len(numbers) == 2 else numbers[0])
    return values


def kept_moments(family: Scored, options: Mapping[str, Any]) -> list[int]:
    """The candidates whose first moments are kept: where the decay rate is 0, the moment is the gradient itself.

    torch's own functions want it kept even so.
    """
    decays = family.decays(options)
    return [j for j, decay in enumerate(decays) if decay or options["type"] == "default"]


def places(K: int, kept: Sequence[int]) -> tuple[int | None, ...]:
    """The K candidates' places among the kept moments; None for those that are not kept."""
    return tuple(kept.index(j) if j in kept else None for j in range(K))


def parse_betas(betas: Any) -> list[Betas]:
    """Turn one ``(beta1, beta2)`` or a sequence of them into a list of pairs of floats.

    Raises:
        ValueError: there are none, they are not pairs (two bare numbers in a list are refused, too, since they could
            mean one pair or two candidates), or a value lies outside [0, 1).
    """
    pairs = list(betas) if isinstance(betas, (list, tuple)) else [betas]
    if isinstance(betas, list) and pairs and all(map(is_number, pairs)):
        candidates = ", ".join(f"({beta1!r}, 0.999)" for beta1 in pairs)
        raise ValueError(
            f"betas={betas!r} is ambiguous: give each candidate its beta2, betas=[{candidates}], or a single "
            "(beta1, beta2) as a tuple"
        )
    if len(pairs) == 2 and all(map(is_number, pairs)):
        pairs = [tuple(pairs)]
    if not pairs or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise ValueError(
            f"betas={betas!r} is malformed; expected (beta1, beta2) or a list of such pairs, one per candidate, like "
            "[(0.8, 0.999), (0.99, 0.999)]. A scheduler that cycles momentum rewrites betas: pass cycle_momentum=False."
        )
    for pair in pairs:
        if not all(is_number(b) and 0 <= b < 1 for b in pair):
            raise ValueError(f"betas={betas!r}: {tuple(pair)} is out of range; expected two numbers in [0, 1)")
    return [(float(beta1), float(beta2)) for beta1, beta2 in pairs]


def complete_betas(options: dict[str, Any], beta2: float) -> None:
    """Give candidates that come from text, where it may be left out, the optimizer's own beta2. Changes ``options``."""
    if isinstance(betas := options.get("betas"), list):
        pairs = [pair if isinstance(pair, tuple) else (pair, beta2) for pair in betas]
        options["betas"] = pairs[0] if len(pairs) == 1 else pairs


def distinct_beta2(pairs: list[Betas]) -> list[float]:
    """List the different beta2 in order of appearance: one second moment is kept for each."""
    return list(dict.fromkeys(beta2 for _, beta2 in pairs))


def momentum_gain(momentum: float) -> float:
    """The factor that brings ``momentum`` to the gain of 0.9 for a constant gradient, 1 / (1 - 0.9)."""
    return (1 - momentum) / (1 - 0.9)


def parse_momentum(momentum: Any) -> list[float]:
    """Turn one momentum or a list of them into a list of floats.

    Raises:
        ValueError: there are none, they are not numbers, or a value lies outside [0, 1).
    """
    momenta = list(momentum) if isinstance(momentum, (list, tuple)) else [momentum]
    if not momenta or not all(is_number(m) and 0 <= m < 1 for m in momenta):
        raise ValueError(
            f"momentum={momentum!r} is malformed or out of range; expected one number in [0, 1) or a list of them, one "
            "per candidate, like [0.5, 0.9, 0.99]"
        )
    return [float(m) for m in momenta]


def one_over_norm(momentum: float) -> float:
    """Return sqrt(1 - momentum^2), one over the momentum filter's norm, for the score and ``lr_modulation``."""
    return math.sqrt(1 - momentum**2)
