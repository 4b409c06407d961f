"""The fused CPU kernel of root-free RMSProp: ``c/rf_rmsprop.h``."""

import ctypes
from typing import Any, ClassVar

from .fused_cpu import FusedCPU, doubles


class RFRMSpropStruct(ctypes.Structure):
    """``struct rf_rmsprop_numbers`` of ``c/rf_rmsprop.h``."""

    _fields_: ClassVar = [
        ("momentum", ctypes.c_void_p),
        *[(name, ctypes.c_double) for name in ("alpha", "batch_size", "eps", "decay")],
    ]


class RFRMSpropOnCPU(FusedCPU):
    """The kernel on CPUs; its buffers are K momentum buffers and the mean square."""

    prefix: ClassVar[str] = "rf_rmsprop"

    def own(self, numbers: Any) -> tuple[ctypes.Structure, list[Any]]:
        momenta = doubles(numbers.momenta)
        found = RFRMSpropStruct(
            momentum=ctypes.addressof(momenta),
            alpha=numbers.alpha,
            batch_size=numbers.batch_size,
            eps=numbers.eps,
            decay=numbers.decay,
        )
        return found, [momenta]
