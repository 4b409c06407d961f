"""Flat tensors that take the place of parameters, and the slices of parameters in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


class Slice(NamedTuple):
    """A stretch of ``numel`` elements of parameter ``row``, from ``start`` in a flat tensor, ``offset`` in itself."""

    row: int
    start: int
    numel: int
    offset: int

    def narrow(self) -> Callable[[Tensor], Tensor]:
        """Cut the slice out of a tensor that is laid out like the flat one."""
        return partial(torch.narrow, dim=0, start=self.start, length=self.numel)


class Slices:
    """Cuts slices out of a flat tensor, in one operation: one for each would take longer than small slices' update.

    Attributes:
        rows: the slices' parameters, by their places in the group.
    """

    def __init__(self, slices: Sequence[Slice]) -> None:
        self.slices, self.rows = slices, tuple(piece.row for piece in slices)
        self.lengths: list[int] = []  # of everything up to the end of the last slice, gaps included
        places, end = {}, 0
        for i in sorted(range(len(slices)), key=lambda i: slices[i].start):
            if slices[i].start > end:
                self.lengths.append(slices[i].start - end)
            places[i] = len(self.lengths)
            self.lengths.append(slices[i].numel)
            end = slices[i].start + slices[i].numel
        self.end, self.places = end, [places[i] for i in range(len(slices))]

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        if not tensors:
            return []
        flat = tensors[0]  # the others are the same
        pieces = torch.split_with_sizes(flat, [*self.lengths, flat.numel() - self.end])
        return [pieces[place] for place in self.places]

    def select(self, chosen: Sequence[int]) -> "Slices":
        """Return what cuts out only the slices ``chosen``."""
        return Slices([self.slices[i] for i in chosen])


@dataclass(eq=False)
class Flat:
    """A flat tensor that takes the place of parameters of group ``g``.

    Attributes:
        g: the group's number.
        key: the tensor.
        rows: the parameters of which it holds slices on any rank, by their places in the group.
        slices: those on this rank.
    """

    g: int
    key: Tensor
    rows: Sequence[int]
    slices: list[Slice]

    @cached_property
    def cut(self) -> Slices:
        """Cuts all slices out."""
        return Slices(self.slices)


def one_after_another(sizes: Sequence[int]) -> list[int]:
    """Return where tensors of these sizes begin if there are no gaps between them."""
    return [0, *accumulate(sizes)][:-1]


def cut_out(order: Sequence[int], starts: list[int], sizes: list[int], begin: int, length: int) -> list[Slice]:
    """Cut out the slices of the parameters ``order`` that lie in ``[begin, begin + length)`` of one flat tensor.

    ``starts`` and ``sizes`` are the parameters' places in it.
    """
    slices = []
    for index, start, size in zip(order, starts, sizes, strict=True):
        first, last = max(begin, start), min(begin + length, start + size)
        if first < last:
            slices.append(Slice(index, first - begin, last - first, first - start))
    return slices
