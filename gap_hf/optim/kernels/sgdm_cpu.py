"""The SGDM family's fused CPU kernel: ``c/sgdm.h``."""

import ctypes
from typing import Any, ClassVar

from .fused_cpu import FusedCPU, doubles


class SGDMStruct(ctypes.Structure):
    """``struct sgdm_numbers`` of ``c/sgdm.h``."""

    _fields_: ClassVar = [
        ("momentum", ctypes.c_void_p),
        ("dampening", ctypes.c_double),
        ("nesterov", ctypes.c_int64),
    ]


class SGDMOnCPU(FusedCPU):
    """The kernel on CPUs; its buffers are K momentum buffers."""

    prefix: ClassVar[str] = "sgdm"

    def own(self, numbers: Any) -> tuple[ctypes.Structure, list[Any]]:
        momenta = doubles(numbers.momenta)
        found = SGDMStruct(momentum=ctypes.addressof(momenta), dampening=numbers.dampening, nesterov=numbers.nesterov)
        return found, [momenta]
