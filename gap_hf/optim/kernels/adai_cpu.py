"""The Adai family's fused CPU kernel: ``c/adai.h``."""

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..rules.rule import Rule
from ..work import Work
from .fused_cpu import FusedCPU, address


class AdaiStruct(ctypes.Structure):
    """``struct adai_numbers`` of ``c/adai.h``."""

    _fields_: ClassVar = [
        ("beta0", ctypes.c_void_p),
        *[(name, ctypes.c_double) for name in ("beta2", "eps", "dampening", "keep")],
        ("round", ctypes.c_int64),
        ("mean", ctypes.c_double),
    ]


class AdaiOnCPU(FusedCPU):
    """The kernel on CPUs; its buffers are K first moments, K products and a second moment, all in float32.

    Where no scores are wanted, ``observe`` leaves the second round to ``apply`` or ``mix``, which need one pass for
    both.
    """

    prefix: ClassVar[str] = "adai"
    rules: ClassVar[tuple[type[Rule], ...]] = ()  # none of them alone: the mean over the model comes in between

    @staticmethod
    def why_not(dtypes: tuple[torch.dtype, ...]) -> str | None:
        if any(dtype != torch.float32 for dtype in dtypes[2:]):
            return f"its buffers must be float32, not {', '.join(map(str, dtypes[2:]))}"
        return FusedCPU.why_not(dtypes)

    def own(self, numbers: Any) -> tuple[ctypes.Structure, list[np.ndarray]]:
        beta0 = np.array(numbers.beta0, dtype=np.float64)
        self.numbers = AdaiStruct(
            beta0=beta0.ctypes.data,
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

    def apply(self, work: Work, answers: list[Tensor], choices: Sequence[int], resets: Sequence[bool]) -> None:
        if work.scored:
            super().apply(work, answers, choices, resets)
        else:
            self.step_constant(work, tuple(float(j == choices[0]) for j in range(len(work.numbers.beta0))))

    def mix(
        self, work: Work, answers: list[Tensor], weights: Sequence[Sequence[float]], resets: Sequence[bool]
    ) -> None:
        if work.scored:
            super().mix(work, answers, weights, resets)
        else:
            self.step_constant(work, tuple(weights[0]))
