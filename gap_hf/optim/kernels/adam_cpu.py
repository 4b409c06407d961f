"""The fused CPU kernel of Adam and root-free AdamW: ``c/adam.h``."""

import ctypes
from typing import Any, ClassVar

import numpy as np

from .fused_cpu import FusedCPU


class AdamStruct(ctypes.Structure):
    """``struct adam_numbers`` of ``c/adam.h``."""

    _fields_: ClassVar = [
        *[(name, ctypes.c_void_p) for name in ("second", "beta1", "beta2")],
        *[(name, ctypes.c_double) for name in ("eps", "keep", "second_reset", "batch_size")],
        ("exponent", ctypes.c_void_p),
    ]


class AdamOnCPU(FusedCPU):
    """The kernel on CPUs; its buffers are K first moments and U second moments."""

    prefix: ClassVar[str] = "adam"

    def own(self, numbers: Any) -> tuple[ctypes.Structure, list[np.ndarray]]:
        betas = np.array([*numbers.betas, *numbers.betas2], dtype=np.float64)
        exponents = np.array(numbers.exponents, dtype=np.int64)
        second = np.array(numbers.second, dtype=np.int64)
        found = AdamStruct(
            second=second.ctypes.data,
            beta1=betas.ctypes.data,
            beta2=betas.ctypes.data + 8 * len(numbers.betas),
            eps=numbers.eps,
            keep=1 - float(numbers.lr) * numbers.decay,
            second_reset=numbers.second_reset,
            batch_size=numbers.batch_size or 0.0,
            exponent=exponents.ctypes.data if numbers.exponents else None,
        )
        return found, [betas, second, exponents]
