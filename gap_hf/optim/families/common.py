"""Functions that several families use in their formulas and options."""

from typing import Any

from torch import Tensor

from ..arithmetic.operations import Operations
from ..arithmetic.rounding import salt
from ..work import Work


def filtered(ops: Operations, work: Work) -> list[Tensor]:
    """The gradients that enter the filter, with the L2 term if the decay is not decoupled."""
    grads = list(ops.neg(work.grads)) if work.numbers.maximize else work.grads
    if work.numbers.l2:
        return list(ops.add(grads, work.values, alpha=work.numbers.l2))
    return grads


def salts(numbers: Any, steps: list[float], j: int) -> list[int] | None:
    """The salts for stochastic rounding of moment ``j``, or None if it is off."""
    return [salt(int(t), j) for t in steps] if numbers.stochastic else None


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
