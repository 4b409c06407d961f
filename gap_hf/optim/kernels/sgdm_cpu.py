"""The SGDM family's fused CPU kernel: ``c/sgdm.h``."""

import ctypes
from typing import Any, ClassVar

import numpy as np

from .fused_cpu import FusedCPU


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

    def own(self, numbers: Any) -> tuple[ctypes.Structure, list[np.ndarray]]:
        momenta = np.array(numbers.momenta, dtype=np.float64)
        found = SGDMStruct(momentum=momenta.ctypes.data, dampening=numbers.dampening, nesterov=numbers.nesterov)
        return found, [momenta]
