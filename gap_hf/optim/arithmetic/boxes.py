"""Fragments of stacked matrices as boxes: what products with vectors need, wherever a parameter is cut."""

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class Place(NamedTuple):
    """Where a fragment lies in its parameter.

    Attributes:
        row: the parameter's place in its group.
        shape: the whole parameter's shape.
        start: the place of its first element in the flattened parameter or, of a box, the indices of its first element.
    """

    row: int
    shape: torch.Size
    start: int | tuple[int, ...]


class Box(NamedTuple):
    """A rectangle of one matrix of a stack.

    Attributes:
        values: its elements, a view.
        row: its first row, counted through the whole stack.
        column: its first column.
        matrix: the matrix's number in the stack.
    """

    values: Tensor
    row: int
    column: int
    matrix: int

    @property
    def rows(self) -> slice:
        """Its rows, counted through the whole stack."""
        return slice(self.row, self.row + self.values.shape[0])

    def columns(self, of_each: int) -> slice:
        """Its columns in a vector that has ``of_each`` numbers for each matrix."""
        first = self.matrix * of_each + self.column
        return slice(first, first + self.values.shape[1])


def boxes(values: Tensor, shape: torch.Size, start: int | tuple[int, ...]) -> Iterator[Box]:
    """Cut a fragment into boxes.

    Args:
        values: the fragment; or something laid out like it.
        shape: the whole parameter's shape, whose last two dimensions are those of a matrix.
        start: where the fragment begins in the flattened parameter, or the indices of its first element if it is a box
            of the parameter's dimensions.
    """
    *stack, R, C = shape
    if isinstance(start, int) and values.shape != shape:
        yield from of_stretch(values.flatten(), R, C, start)
        return
    first = (0,) * len(shape) if isinstance(start, int) else start
    for index in product(*map(range, values.shape[:-2])):
        matrix = 0
        for i, offset, size in zip(index, first, stack, strict=False):
            matrix = matrix * size + i + offset
        yield Box(values[index], matrix * R + first[-2], first[-1], matrix)


def of_stretch(values: Tensor, R: int, C: int, start: int) -> Iterator[Box]:
    """Cut a stretch of elements: into the rest of a row, whole rows matrix by matrix, and the beginning of a row."""
    at, end = start, start + values.numel()
    while at < end:
        row, column = divmod(at, C)
        if column or end - at < C:
            n = min(C - column, end - at)
            shape = (1, n)
        else:
            rows = min((end - at) // C, R - row % R)
            shape = (rows, C)
            n = prod(shape)
        yield Box(values[at - start : at - start + n].view(shape), row, column, row // R)
        at += n
