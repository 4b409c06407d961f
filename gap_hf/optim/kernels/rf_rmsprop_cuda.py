"""Root-free RMSProp's fused CUDA kernels: how ``triton_rf_rmsprop.py`` and its mix are told what to do."""

from typing import Any, ClassVar

import numpy as np

from ..work import Work
from .fused_cuda import FusedCUDA, element_type, places


class RFRMSpropOnCUDA(FusedCUDA):
    """The kernel on CUDA; its buffers are F momentum buffers and the mean square."""

    module: ClassVar[str] = "triton_rf_rmsprop"

    def numbers(self, numbers: Any) -> np.ndarray:
        rest = (1 - numbers.alpha) * numbers.batch_size
        table = [*numbers.momenta, *numbers.modulation, *places(numbers), numbers.alpha, rest]
        return np.array(table, dtype=np.float64)

    def told(self, numbers: Any) -> dict[str, tuple[list[float], dict[str, Any]]]:
        both = [float(numbers.eps), float(numbers.decay)]
        resets = [*both, float(numbers.soft_reset)]
        return {"observe": (both, {}), "apply": (resets, {}), "mix": (resets, {}), "step_constant": (both, {})}

    def constants(self, work: Work) -> dict[str, Any]:
        return {"SECOND_DTYPE": element_type(work.buffers[-1][0].dtype)}
