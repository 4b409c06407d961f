"""The Adam family's fused CUDA kernels: how ``triton_adam.py`` is told what to do."""

from typing import Any, ClassVar

import numpy as np

from ..work import Work
from .fused_cuda import FusedCUDA, element_type, logarithms


class AdamOnCUDA(FusedCUDA):
    """The kernel on CUDA; its buffers are K first moments and U second moments."""

    module: ClassVar[str] = "triton_adam"

    def numbers(self, numbers: Any) -> np.ndarray:
        first = [*numbers.betas, *logarithms(numbers.betas), *numbers.modulation, *numbers.second]
        return np.array([*first, *numbers.betas2, *logarithms(numbers.betas2)], dtype=np.float64)

    def observing(self, numbers: Any) -> tuple[list[float], dict[str, Any]]:
        second = sum(u << 8 * j for j, u in enumerate(numbers.second))
        own = {"SECOND": second, "L2": numbers.l2 != 0, "MAXIMIZE": numbers.maximize}
        return [float(numbers.eps), float(numbers.l2)], own

    def applying(self, numbers: Any) -> tuple[list[float], dict[str, Any]]:
        own = [float(x) for x in (numbers.eps, numbers.decay, numbers.soft_reset, numbers.second_reset)]
        return own, {"RESET_SECOND": numbers.second_reset != 1}

    def constants(self, work: Work) -> dict[str, Any]:
        return {"U": len(work.numbers.betas2), "SECOND_DTYPE": element_type(work.buffers[-1][0].dtype)}
