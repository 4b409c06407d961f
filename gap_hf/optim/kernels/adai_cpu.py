"""The Adai family's fused CPU kernel: ``c/adai.h``."""

import ctypes
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..work import Work
from .fused_cpu import address, doubles
from .rounds import RoundsOnCPU


class AdaiStruct(ctypes.Structure):
    """``struct adai_numbers`` of ``c/adai.h``."""

    _fields_: ClassVar = [
        ("beta0", ctypes.c_void_p),
        *[(name, ctypes.c_double) for name in ("beta2", "eps", "dampening", "keep")],
        ("round", ctypes.c_int64),
        ("mean", ctypes.c_double),
    ]


class AdaiOnCPU(RoundsOnCPU):
    """The kernel on CPUs; its buffers are K first moments, K products and a second moment, all in float32.

    Where no scores are wanted, ``observe`` leaves the second round to ``apply`` or ``mix``, which need one pass for
    both.
    """

    prefix: ClassVar[str] = "adai"

    def own(self, numbers: Any) -> tuple[ctypes.Structure, list[Any]]:
        beta0 = doubles(numbers.beta0)
        self.numbers = AdaiStruct(
            beta0=ctypes.addressof(beta0),
            beta2=numbers.beta2,
            eps=numbers.eps,
            dampening=numbers.dampening,
            keep=1 - float(numbers.lr) * numbers.decay,
        )
        return self.numbers, [beta0]

    def observe(self, work: Work, answers: list[Tensor]) -> Tensor:
        self.prepared(work)
        if not answers:
            self.numbers.round = 0
            sums = torch.empty(len(work.values), dtype=torch.float64, device="cpu")
            self.call("observe", work, address(sums))
            return torch.stack([sums, torch.from_numpy(self.known().numel).double()], dim=1)
        total, count = answers[0].tolist()
        self.numbers.round, self.numbers.mean = 1, total / count if total else 1.0
        if not work.scored:
            return torch.zeros(len(work.values), 0, dtype=torch.float64, device="cpu")
        return super().observe(work, answers)
