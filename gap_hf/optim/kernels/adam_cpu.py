"""The fused CPU kernel of Adam and root-free AdamW: ``c/adam.h``."""

import ctypes
from typing import Any, ClassVar

from .fused_cpu import FusedCPU, doubles, integers


class AdamStruct(ctypes.Structure):
    """``struct adam_numbers`` of ``c/adam_elements.h``."""

    _fields_: ClassVar = [
        *[(name, ctypes.c_void_p) for name in ("second", "beta1", "beta2")],
        *[(name, ctypes.c_double) for name in ("eps", "keep", "second_reset", "batch_size")],
        ("exponent", ctypes.c_void_p),
    ]


class AdamOnCPU(FusedCPU):
    """The kernel on CPUs; its buffers are K first moments and U second moments."""

    prefix: ClassVar[str] = "adam"

    def own(self, numbers: Any) -> tuple[ctypes.Structure, list[Any]]:
        betas, exponents = doubles([*numbers.betas, *numbers.betas2]), integers(numbers.exponents)
        second = integers(numbers.second)
        found = AdamStruct(
            second=ctypes.addressof(second),
            beta1=ctypes.addressof(betas),
            beta2=ctypes.addressof(betas) + 8 * len(numbers.betas),
            eps=numbers.eps,
            keep=1 - float(numbers.lr) * numbers.decay,
            second_reset=numbers.second_reset,
            batch_size=numbers.batch_size or 0.0,
            exponent=ctypes.addressof(exponents) if numbers.exponents else None,
        )
        return found, [betas, second, exponents]
