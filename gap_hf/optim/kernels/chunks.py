"""Works cut into chunks, so that what torch's operations make on the way stays in the cache, and is small."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..family import Family, Grain
from ..work import Work

ELEMENTS = {"cpu": 1 << 18}
"""The elements of a chunk by type of device: 1 MB of float32, of which a few fit a core's cache."""

ELSEWHERE = 1 << 24
"""On accelerators: 64 MB, whose operations take longer than it takes to launch them."""


class Chunk(NamedTuple):
    """A part of a work.

    Attributes:
        rows: the fragments that it is of.
        work: their elements, all of them or a stretch.
    """

    rows: list[int]
    work: Work


def chunks(family: Family, work: Work) -> Iterator[Chunk]:
    """Cut ``work`` into chunks of whole fragments, and of stretches of those that are larger than a chunk.

    A work of a family that needs more than single elements, or asks for reductions on the way, stays in one piece.
    """
    numel = [value.numel() for value in work.values]
    size = ELEMENTS.get(work.values[0].device.type, ELSEWHERE)
    if sum(numel) <= size or family.rounds or family.placed or family.grain is not Grain.ELEMENT:
        yield Chunk(list(range(len(numel))), work)
        return
    rows: list[int] = []
    held = 0
    for i, n in enumerate(numel):
        if n > size and all(map(Tensor.is_contiguous, arrays(work, i))):
            for begin in range(0, n, size):
                yield Chunk([i], stretch(work, i, begin, begin + size))
            continue
        if rows and held + n > size:
            yield Chunk(rows, work.select(rows))
            rows, held = [], 0
        rows.append(i)
        held += n
    if rows:
        yield Chunk(rows, work.select(rows))


def arrays(work: Work, i: int) -> list[Tensor]:
    """Fragment ``i``'s value, gradient and buffers."""
    return [work.values[i], work.grads[i], *(column[i] for column in work.buffers)]


def stretch(work: Work, i: int, begin: int, end: int) -> Work:
    """Return elements [begin, end) of fragment ``i``."""
    one = work.select([i])
    one.values, one.grads = ([t.view(-1)[begin:end] for t in column] for column in (one.values, one.grads))
    one.buffers = [[t.view(-1)[begin:end] for t in column] for column in one.buffers]
    return one


def together(found: list[tuple[list[int], Tensor]], N: int) -> Tensor:
    """Add up the sums of chunks, by fragment: ``(N, S)``."""
    if len(found) == 1:
        return found[0][1]
    rows = torch.tensor([i for some, _ in found for i in some], device=found[0][1].device)
    sums = torch.cat([part for _, part in found])
    return sums.new_zeros(N, sums.shape[1]).index_add_(0, rows, sums)
