"""The SGDM family's fused CUDA kernels: how ``triton_sgdm.py`` is told what to do."""

from typing import Any, ClassVar

import numpy as np

from ..work import Work
from .fused_cuda import FusedCUDA


class SGDMOnCUDA(FusedCUDA):
    """The kernel on CUDA; its buffers are K momentum buffers."""

    module: ClassVar[str] = "triton_sgdm"

    def numbers(self, numbers: Any) -> np.ndarray:
        return np.array([*numbers.momenta, *numbers.modulation], dtype=np.float64)

    def observing(self, numbers: Any) -> tuple[list[float], dict[str, Any]]:
        return [float(numbers.l2), float(1 - numbers.dampening)], {}

    def applying(self, numbers: Any) -> tuple[list[float], dict[str, Any]]:
        return [float(numbers.l2), float(numbers.soft_reset)], {"NESTEROV": numbers.nesterov}

    def constants(self, work: Work) -> dict[str, Any]:
        return {"L2": work.numbers.l2 != 0, "MAXIMIZE": work.numbers.maximize}
