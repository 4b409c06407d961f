"""The fragments of a work as boxes of matrices, and the vectors of their power iteration, for fused kernels."""

from collections.abc import Sequence
from itertools import accumulate
from math import prod

import numpy as np
import torch

from ..arithmetic.boxes import Place, boxes
from ..arithmetic.power import columns, is_matrix, rows
from ..work import Work

NAMES = ("boxes", "first_box", "R", "C", "columns", "rows", "of_norm")


class Matrices:
    """The fragments' boxes and vectors.

    Attributes:
        arrays: int64, by the names in ``NAMES``. ``boxes`` has six numbers for each box: where its elements begin in
            the fragment, its height and width, and where its rows, columns and matrix are among those of the
            fragment's whole stack. The others have a number for each fragment, or where its own begin, and one more:
            its boxes; the rows and columns of one matrix; its part of ``v``, of ``Wv`` and of ``norm``.
        v: W'u, then v: the vectors of all fragments, one behind the other, float64.
        Wv: the same for W v.
        norm: a number for each matrix, float64.
        parts: each fragment's part of ``v`` and of ``Wv``.
        whole: whether all fragments are whole parameters.
    """

    def __init__(self, work: Work) -> None:
        pairs = list(zip(work.values, work.places, strict=True))
        spectral = [work.numbers.decays_spectrally(place, value) for value, place in pairs]
        self.made_for = key(work)
        found: list[list[int]] = []
        first = [0]
        R, C = ([place.shape[d] if is_matrix(place.shape) else 1 for place in work.places] for d in (-2, -1))
        for (value, place), wanted in zip(pairs, spectral, strict=True):
            at = 0
            for box in boxes(value, place.shape, place.start) if wanted else ():
                first_column = box.matrix * place.shape[-1] + box.column
                found.append([at, *box.values.shape, box.row, first_column, box.matrix])
                at += box.values.numel()
            first.append(len(found))
        self.whole = all(value.numel() == place.shape.numel() for value, place in pairs)
        lengths = [[length(place.shape) for place in work.places] for length in (columns, rows)]
        stacks = [prod(place.shape[:-2]) if wanted else 0 for place, wanted in zip(work.places, spectral, strict=True)]
        begins = [list(accumulate(of_each, initial=0)) for of_each in (*lengths, stacks)]
        named = zip(NAMES, (found, first, R, C, *begins), strict=True)
        self.arrays = {name: np.array(numbers, dtype=np.int64) for name, numbers in named}
        device = work.values[0].device
        self.v, self.Wv, self.norm = (
            torch.zeros(of_each[-1], dtype=torch.float64, device=device) for of_each in begins
        )
        self.parts = [vector.split(of_each) for vector, of_each in zip((self.v, self.Wv), lengths, strict=True)]

    def are_those_of(self, work: Work) -> bool:
        """Whether the fragments of ``work`` are those that these were made for."""
        return self.made_for == key(work)


def key(work: Work) -> tuple[Sequence[Place], bool | Sequence[bool], list[int], torch.device]:
    """What boxes depend on."""
    sizes = [value.numel() for value in work.values]
    return work.places, work.numbers.spectral, sizes, work.values[0].device
