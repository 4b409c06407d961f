"""The Adams family's fused CPU kernel: ``c/adams.h``."""

import ctypes
from typing import Any, ClassVar

import torch

from ..work import Work
from .fused_cpu import doubles
from .kernel import Addresses
from .matrices import NAMES, Matrices
from .rounds import RoundsOnCPU


class AdamsStruct(ctypes.Structure):
    """``struct adams_numbers`` of ``c/adams.h``."""

    _fields_: ClassVar = [
        ("betas", ctypes.c_void_p),
        *[(name, ctypes.c_double) for name in ("beta2", "decay", "vector_decay")],
        ("inside", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in (*NAMES, "v", "Wv", "norm")],
    ]


class AdamsOnCPU(RoundsOnCPU):
    """The kernel on CPUs; its buffers are K first moments, a second moment and u, all in float32.

    Where no scores are wanted, the last round is left to ``apply`` or ``mix``, which need one pass for both.
    """

    prefix: ClassVar[str] = "adams"

    matrices: Matrices | None = None
    whole = False
    """Whether all fragments are whole parameters, and none is so large that threads should share it."""

    def begin(self, work: Work, addresses: Addresses | None) -> None:
        super().begin(work, addresses)
        if self.matrices is None or not self.matrices.are_those_of(work):
            self.matrices, sizes, self.described = Matrices(work), self.known().numel, None
            largest = int(sizes.max()) * 2 * torch.get_num_threads()
            self.whole = self.matrices.whole and largest <= int(sizes.sum())

    def own(self, numbers: Any) -> tuple[ctypes.Structure, list[Any]]:
        betas, matrices = doubles(numbers.betas), self.matrices
        assert matrices is not None
        vectors = {"v": matrices.v, "Wv": matrices.Wv, "norm": matrices.norm}
        struct = AdamsStruct(
            betas=ctypes.addressof(betas),
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
            self.call("iterate" if self.whole else "left", work)
            return matrices.parts[0]
        # where no other rank has a share in them, whole matrices need no more
        shared = answers[-1] is not matrices.parts[len(answers) - 1]
        if shared:
            torch.cat(answers[-1], out=(matrices.v, matrices.Wv)[len(answers) - 1])
        more = shared or not self.whole
        if len(answers) == 1:
            if more:
                self.call("right", work)
            return matrices.parts[1]
        if more:
            self.call("settle", work)
        if not work.scored:
            return torch.zeros(len(work.values), 0, dtype=torch.float64, device="cpu")
        return super().observe(work, answers)
