"""Comparisons of a fused kernel's numbers with the loop's, up to rounding."""

import torch
from torch import Tensor

from ..arithmetic import eight_bit
from ..choice import Choice
from ..work import Work

CPU = torch.device("cpu")

ROUNDING = 2e-6
"""How far float32 may be off for numbers of order 1: 32 of its units, because either side rounds a dozen times."""


class Disagreement(Exception):
    """The error for a kernel that disagrees with the loop; the message says in what."""


def coarseness(dtypes: tuple[torch.dtype, ...]) -> float:
    """The relative change of a number that is stored in the coarsest of ``dtypes``."""
    return max(half_a_step(dtype) for dtype in dtypes)


def half_a_step(dtype: torch.dtype) -> float:
    """The largest relative change of a number that is rounded to ``dtype``; codes of 8 bits are uint8."""
    return 2**-5 if dtype == torch.uint8 else torch.finfo(dtype).eps / 2


def compare(what: str, actual: list[Tensor], expected: list[Tensor], extra: float = 0.0) -> None:
    """Raise Disagreement if a number is off by more than rounding.

    Args:
        what: what the numbers are, in words.
        actual: the kernel's numbers, all of one dtype, rounded to that but otherwise as good as float32.
        expected: the loop's numbers, in float32 or wider; or of the same dtype, and then rounded by the same noise.
        extra: the error allowed beyond rounding, for numbers of order 1.
    """
    a, e = (torch.cat([t.to(CPU).flatten() for t in tensors]) for tensors in (actual, expected))
    mine, right = numbers(a), numbers(e)
    unit = half_a_step(a.dtype)
    if e.dtype == a.dtype and a.dtype in (torch.bfloat16, torch.uint8):
        unit *= 2
        if (flips := int((mine != right).sum() - right.isnan().sum())) > 1 + 0.001 * a.numel():
            raise Disagreement(f"{flips} of {a.numel()} numbers are rounded otherwise ({what})")
    size = right.abs()
    near = (mine - right).abs() <= ROUNDING * (1 + size) + unit * size + extra * (1 + size)
    wrong = ~(near | (mine == right) | (mine.isnan() & right.isnan()))
    if wrong.any():
        k = int(wrong.int().argmax())
        raise Disagreement(f"{what} is {mine[k]:.7g}, not {right[k]:.7g}")


def numbers(stored: Tensor) -> Tensor:
    """Return what is stored, float64: of codes of 8 bits those that they stand for if the second moments are 1."""
    if stored.dtype == torch.uint8:
        stored = eight_bit.decode(stored, eight_bit.floors(torch.ones((), device=CPU), -5))
    return stored.double()


def compare_buffers(work: Work, twin: Work, extra: float = 0.0) -> None:
    """Raise Disagreement if buffers differ."""
    for buffer, mine, right in zip(work.declared, work.buffers, twin.buffers, strict=True):
        compare(f"an element of {buffer.name}", mine, right, extra)


def compare_choices(actual: Choice, expected: Choice) -> None:
    """Raise Disagreement if choices differ, or weights by more than rounding."""
    for name, right in {**expected.kept, "a reset": expected.reset}.items():
        mine = actual.kept.get(name, actual.reset)
        if name == "last_weights":
            compare("a weight", [mine], [right])
        elif not torch.equal(mine, right):
            raise Disagreement(f"{name} is {mine.tolist()}, not {right.tolist()}")
