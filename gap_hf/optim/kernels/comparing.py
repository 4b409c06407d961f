"""Comparisons of a fused kernel's numbers with the loop's, up to rounding."""

import torch
from torch import Tensor

from ..choice import Choice
from ..work import Work

CPU = torch.device("cpu")

ROUNDING = 2e-6
"""How far float32 may be off for numbers of order 1: 32 of its units, because either side rounds a dozen times."""


class Disagreement(Exception):
    """The error for a kernel that disagrees with the loop; the message says in what."""


def coarseness(dtypes: tuple[torch.dtype, ...]) -> float:
    """The relative change of a number that is stored in the coarsest of ``dtypes``."""
    return max(torch.finfo(dtype).eps / 2 for dtype in dtypes)


def compare(what: str, actual: list[Tensor], expected: list[Tensor], extra: float = 0.0) -> None:
    """Raise Disagreement if a number is off by more than rounding.

    Args:
        what: what the numbers are, in words.
        actual: the kernel's numbers, all of one dtype, rounded to that but otherwise as good as float32.
        expected: the loop's numbers, in float32 or wider; or of the same dtype, and then rounded by the same noise.
        extra: the error allowed beyond rounding, for numbers of order 1.
    """
    a, e = (torch.cat([t.to(CPU).flatten() for t in tensors]) for tensors in (actual, expected))
    mine, right = a.double(), e.double()
    unit = torch.finfo(a.dtype).eps / 2
    if e.dtype == a.dtype == torch.bfloat16:
        unit *= 2
        if (flips := int((mine != right).sum() - right.isnan().sum())) > 1 + 0.001 * a.numel():
            raise Disagreement(f"{flips} of {a.numel()} numbers are rounded otherwise ({what})")
    size = right.abs()
    near = (mine - right).abs() <= ROUNDING * (1 + size) + unit * size + extra * (1 + size)
    wrong = ~(near | (mine == right) | (mine.isnan() & right.isnan()))
    if wrong.any():
        k = int(wrong.int().argmax())
        raise Disagreement(f"{what} is {mine[k]:.7g}, not {right[k]:.7g}")


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
