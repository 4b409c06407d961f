"""What fused kernels of families with rounds have in common: wide buffers, and one pass where no scores are wanted."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..rules.rule import Rule
from ..uploads import constant
from ..work import Work
from .fused_cpu import FusedCPU
from .fused_cuda import FusedCUDA


def narrow(dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Return the reason why kernels whose buffers are float32 can't take ``dtypes``, or None."""
    if any(dtype != torch.float32 for dtype in dtypes[2:]):
        return f"its buffers must be float32, not {', '.join(map(str, dtypes[2:]))}"
    return None


class RoundsOnCPU(FusedCPU):
    """A kernel on CPUs that leaves its last round to ``apply`` or ``mix`` where no scores are wanted."""

    rules: ClassVar[tuple[type[Rule], ...]] = ()  # none of them alone: the rounds come in between

    @staticmethod
    def why_not(dtypes: tuple[torch.dtype, ...]) -> str | None:
        return narrow(dtypes) or FusedCPU.why_not(dtypes)

    def apply(self, work: Work, answers: list[Any], choices: Sequence[int], resets: Sequence[bool]) -> None:
        if work.scored:
            super().apply(work, answers, choices, resets)
        else:
            self.step_constant(work, tuple(float(j == choices[0]) for j in range(len(work.numbers.gains))))

    def mix(self, work: Work, answers: list[Any], weights: Sequence[Sequence[float]], resets: Sequence[bool]) -> None:
        if work.scored:
            super().mix(work, answers, weights, resets)
        else:
            self.step_constant(work, tuple(weights[0]))


class RoundsOnCUDA(FusedCUDA):
    """A kernel on CUDA whose ``mix`` does what ``apply`` does, too."""

    @staticmethod
    def why_not(dtypes: tuple[torch.dtype, ...]) -> str | None:
        return narrow(dtypes) or FusedCUDA.why_not(dtypes)

    def constants(self, work: Work) -> dict[str, Any]:
        return {}

    def apply(self, work: Work, answers: list[Any], choices: Tensor, resets: Tensor) -> None:
        candidates = constant(tuple(range(len(work.numbers.gains))), torch.int64, choices.device)
        self.mix(work, answers, (choices.unsqueeze(1) == candidates).double(), resets)
