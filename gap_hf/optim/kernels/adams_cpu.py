"""The Adams family's fused CPU kernel: ``c/adams.h``."""

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch

from ..arithmetic.boxes import boxes
from ..arithmetic.power import columns, is_matrix, rows
from ..rules.rule import Rule
from ..work import Work
from .fused_cpu import FusedCPU
from .kernel import Addresses

POINTERS = ("boxes", "first_box", "R", "C", "columns", "rows", "of_norm")


class AdamsStruct(ctypes.Structure):
    """``struct adams_numbers`` of ``c/adams.h``."""

    _fields_: ClassVar = [
        ("betas", ctypes.c_void_p),
        *[(name, ctypes.c_double) for name in ("beta2", "decay", "vector_decay")],
        ("inside", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in (*POINTERS, "v", "Wv", "norm")],
    ]


class Matrices:
    """The fragments of a work as boxes, and the vectors of their power iteration.

    Attributes:
        arrays: what the struct points to, by name.
        v: W'u, then v: the vectors of all fragments, one behind the other.
        Wv: the same for W v.
        norm: a number for each matrix.
        parts: each fragment's part of ``v`` and of ``Wv``.
        whole: whether all fragments are whole parameters, and none is so large that threads should share it.
    """

    def __init__(self, work: Work) -> None:
        pairs = list(zip(work.values, work.places, strict=True))
        spectral = [work.numbers.decays_spectrally(place, value) for value, place in pairs]
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
        sizes = [value.numel() for value in work.values]
        self.whole = all(value.numel() == place.shape.numel() for value, place in pairs)
        self.whole &= max(sizes) * 2 * torch.get_num_threads() <= sum(sizes)
        lengths = [[length(place.shape) for place in work.places] for length in (columns, rows)]
        stacks = [prod(place.shape[:-2]) if wanted else 0 for place, wanted in zip(work.places, spectral, strict=True)]
        begins = [list(accumulate(lengths, initial=0)) for lengths in (*lengths, stacks)]
        named = zip(POINTERS, (found, first, R, C, *begins), strict=True)
        self.arrays = {name: np.array(numbers, dtype=np.int64) for name, numbers in named}
        self.v, self.Wv, self.norm = (torch.zeros(of_each[-1], dtype=torch.float64, device="cpu") for of_each in begins)
        self.parts = [vector.split(of_each) for vector, of_each in zip((self.v, self.Wv), lengths, strict=True)]


class AdamsOnCPU(FusedCPU):
    """The kernel on CPUs; its buffers are K first moments, a second moment and u, all in float32.

    Where no scores are wanted, the last round is left to ``apply`` or ``mix``, which need one pass for both.
    """

    prefix: ClassVar[str] = "adams"
    rules: ClassVar[tuple[type[Rule], ...]] = ()  # none of them alone: the power iteration comes before

    matrices: Matrices | None = None
    made_for: Any = None

    @staticmethod
    def why_not(dtypes: tuple[torch.dtype, ...]) -> str | None:
        if any(dtype != torch.float32 for dtype in dtypes[2:]):
            return f"its buffers must be float32, not {', '.join(map(str, dtypes[2:]))}"
        return FusedCPU.why_not(dtypes)

    def begin(self, work: Work, addresses: Addresses | None) -> None:
        super().begin(work, addresses)
        numel = self.known().numel.tolist()
        if self.made_for != (key := (work.places, work.numbers.spectral, numel)):
            self.made_for, self.matrices = key, Matrices(work)

    def own(self, numbers: Any) -> tuple[ctypes.Structure, list[Any]]:
        betas, matrices = np.array(numbers.betas, dtype=np.float64), self.matrices
        assert matrices is not None
        vectors = {"v": matrices.v, "Wv": matrices.Wv, "norm": matrices.norm}
        struct = AdamsStruct(
            betas=betas.ctypes.data,
            beta2=numbers.beta2,
            decay=float(numbers.lr) * numbers.decay,
            vector_decay=float(numbers.lr) * numbers.scalar_vector_decay,
            inside=numbers.inside,
            **{name: array.ctypes.data for name, array in matrices.arrays.items()},
            **{name: vector.data_ptr() for name, vector in vectors.items()},
        )
        return struct, [betas, matrices]

    def observe(self, work: Work, answers: list[Any]) -> Any:
        self.prepared(work)
        matrices = self.matrices
        assert matrices is not None
        if not answers:
            self.call("iterate" if matrices.whole else "left", work)
            return matrices.parts[0]
        # where no other rank has a share in them, whole matrices need no more
        shared = answers[-1] is not matrices.parts[len(answers) - 1]
        if shared:
            torch.cat(answers[-1], out=(matrices.v, matrices.Wv)[len(answers) - 1])
        more = shared or not matrices.whole
        if len(answers) == 1:
            if more:
                self.call("right", work)
            return matrices.parts[1]
        if more:
            self.call("settle", work)
        if not work.scored:
            return torch.zeros(len(work.values), 0, dtype=torch.float64, device="cpu")
        return super().observe(work, answers)

    def apply(self, work: Work, answers: list[Any], choices: Sequence[int], resets: Sequence[bool]) -> None:
        if work.scored:
            super().apply(work, answers, choices, resets)
        else:
            self.step_constant(work, tuple(float(j == choices[0]) for j in range(len(work.numbers.betas))))

    def mix(self, work: Work, answers: list[Any], weights: Sequence[Sequence[float]], resets: Sequence[bool]) -> None:
        if work.scored:
            super().mix(work, answers, weights, resets)
        else:
            self.step_constant(work, tuple(weights[0]))
