"""The SGDM family's fused CUDA kernels: how ``triton_sgdm.py`` and ``triton_sgdm_mix.py`` are told what to do."""

from typing import Any, ClassVar

import numpy as np

from ..work import Work
from .fused_cuda import FusedCUDA, places


class SGDMOnCUDA(FusedCUDA):
    """The kernel on CUDA; its buffers are F momentum buffers."""

    module: ClassVar[str] = "triton_sgdm"

    def numbers(self, numbers: Any) -> np.ndarray:
        return np.array([*numbers.momenta, *numbers.modulation, *places(numbers)], dtype=np.float64)

    def told(self, numbers: Any) -> dict[str, tuple[list[float], dict[str, Any]]]:
        l2, rest, reset = float(numbers.l2), float(1 - numbers.dampening), float(numbers.soft_reset)
        nesterov = {"NESTEROV": numbers.nesterov}
        return {
            "observe": ([l2, rest], {}),
            "apply": ([l2, rest, reset], nesterov),
            "mix": ([l2, rest, reset], nesterov),
            "step_constant": ([l2, rest], nesterov),
        }

    def constants(self, work: Work) -> dict[str, Any]:
        return {}
