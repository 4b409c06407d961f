"""The Adam family's fused CUDA kernels: how ``triton_adam.py`` and ``triton_adam_mix.py`` are told what to do."""

from typing import Any, ClassVar

import numpy as np

from ..work import Work
from .fused_cuda import FusedCUDA, element_type, logarithms, packed, places


class AdamOnCUDA(FusedCUDA):
    """The kernel on CUDA; its buffers are F first moments and U second moments."""

    module: ClassVar[str] = "triton_adam"

    def numbers(self, numbers: Any) -> np.ndarray:
        first = [*numbers.betas, *logarithms(numbers.betas), *numbers.modulation, *numbers.second, *places(numbers)]
        return np.array([*first, *numbers.betas2, *logarithms(numbers.betas2)], dtype=np.float64)

    def told(self, numbers: Any) -> dict[str, tuple[list[float], dict[str, Any]]]:
        eps, l2, decay = (float(x) for x in (numbers.eps, numbers.l2, numbers.decay))
        resets = [float(numbers.soft_reset), float(numbers.second_reset)]
        second, reset = {"SECOND": packed(numbers.second)}, {"RESET_SECOND": numbers.second_reset != 1}
        return {
            "observe": ([eps, l2], second),
            "apply": ([eps, l2, decay, *resets], reset),
            "mix": ([eps, l2, decay, *resets], second | reset),
            "step_constant": ([eps, l2, decay], second),
        }

    def constants(self, work: Work) -> dict[str, Any]:
        return {"U": len(work.numbers.betas2), "SECOND_DTYPE": element_type(work.buffers[-1][0].dtype)}
