"""The fused CUDA kernels of Adam and root-free AdamW: what ``triton_adam.py`` and ``triton_adam_mix.py`` are told."""

from typing import Any, ClassVar

import numpy as np

from ..work import Work
from .fused_cuda import FusedCUDA, element_type, logarithms, packed, places


class AdamOnCUDA(FusedCUDA):
    """The kernel on CUDA; its buffers are F first moments and U second moments."""

    module: ClassVar[str] = "triton_adam"

    def numbers(self, numbers: Any) -> np.ndarray:
        B = numbers.batch_size
        logs = [logarithms(betas) if B is None else [-np.inf] * len(betas) for betas in (numbers.betas, numbers.betas2)]
        first = [*numbers.betas, *logs[0], *numbers.modulation, *numbers.second, *places(numbers)]
        return np.array([*first, *numbers.betas2, *logs[1], B or 0.0, *self.exponents(numbers)], dtype=np.float64)

    @staticmethod
    def exponents(numbers: Any) -> tuple[int, ...]:
        """The candidates' exponents in 8 bits; zeros if they can't be stored so."""
        return numbers.exponents or (0,) * len(numbers.betas)

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
