"""The arithmetic of a step, several times over: which kernel does it is chosen by torch.optim's flags."""

import functools
import logging

import torch

from . import fused_cpu, fused_cuda
from .foreach import Foreach, Loop
from .work import Kernel, Rule, Work

__all__ = ["Foreach", "FusedCPU", "FusedCUDA", "Kernel", "Loop", "Rule", "Work", "pick"]

logger = logging.getLogger(__name__)

FusedCPU = fused_cpu.FusedCPU
FusedCUDA = fused_cuda.FusedCUDA


@functools.cache
def pick(foreach: bool | None, fused: bool | None, device_type: str, dtypes: tuple[torch.dtype, ...]) -> Kernel:
    """The kernel for tensors on ``device_type``.

    Args:
        foreach: as torch.optim's flag; None leaves it open.
        fused: as torch.optim's flag; None takes the fused kernel where there is one.
        device_type: ``"cpu"``, ``"cuda"``, ...
        dtypes: of value, gradient, first and second moments.

    Raises:
        RuntimeError: ``fused=True`` where there is no fused kernel.
    """
    if fused or (fused is None and foreach is None):
        reason = why_not_fused(device_type, dtypes)
        if reason is None:
            return FusedCPU() if device_type == "cpu" else FusedCUDA()
        if fused:
            raise RuntimeError(f"fused=True can't be done: {reason}. Leave fused out, or set foreach=True.")
        logger.warning("no fused kernel, so the optimizer takes several times longer: %s", reason)
    return Foreach() if foreach or (foreach is None and device_type != "cpu") else Loop()


def why_not_fused(device_type: str, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Why there is no fused kernel that does what the loop does, or None if there is one.

    Raises:
        RuntimeError: a CUDA graph is being captured, and it has not been checked before.
    """
    from . import selfcheck  # it deals and chooses, which needs this module

    if device_type == "cpu":
        return fused_cpu.why_not(dtypes) or selfcheck.why_not(FusedCPU, device_type, dtypes)
    if device_type == "cuda":
        return fused_cuda.why_not(dtypes) or selfcheck.why_not(FusedCUDA, device_type, dtypes)
    return f"there is none for {device_type}"
