"""The choice of a kernel by torch.optim's flags."""

import functools
import logging

import torch

from ..family import Family
from . import selfcheck
from .foreach import Foreach, Loop
from .kernel import Kernel

logger = logging.getLogger(__name__)


@functools.cache
def pick(
    family: Family, foreach: bool | None, fused: bool | None, device_type: str, dtypes: tuple[torch.dtype, ...]
) -> type[Kernel]:
    """Return the kernel for tensors on ``device_type``.

    Args:
        family: the family whose arithmetic is to be done.
        foreach: the same as torch.optim's flag; None leaves it open.
        fused: the same as torch.optim's flag; None takes the family's fused kernel if there is one.
        device_type: ``"cpu"``, ``"cuda"``, ...
        dtypes: the dtypes of value, gradient, compact buffers and other buffers, as far as the family has these.

    Raises:
        RuntimeError: ``fused=True``, and there is no fused kernel.
    """
    if fused or (fused is None and foreach is None):
        reason = why_not_fused(family, device_type, dtypes)
        if reason is None:
            return family.fused[device_type]
        if fused:
            raise RuntimeError(f"fused=True can't be done: {reason}. Leave fused out, or set foreach=True.")
        if family.fused:  # else nobody expects one
            logger.warning("no fused kernel, so the optimizer takes several times longer: %s", reason)
    return Foreach if foreach or (foreach is None and device_type != "cpu") else Loop


def why_not_fused(family: Family, device_type: str, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Return the reason why no fused kernel does what the loop does, or None if one does.

    Raises:
        RuntimeError: a CUDA graph is being captured, and the kernel has not been checked before.
    """
    kernel = family.fused.get(device_type)
    if kernel is None:
        return f"there is none for {device_type}" + ("" if family.fused else f" in the {family.name} family")
    return kernel.why_not(dtypes) or selfcheck.why_not(family, kernel, device_type, dtypes)
