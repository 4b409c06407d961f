"""Small tables on the device, uploaded once: an upload from ordinary memory makes the host wait for the device."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=512)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """``values`` as a 1-D tensor on ``device``, the same tensor every time: not to be written to."""
    return upload(values, dtype, device)


def upload(values: tuple[float, ...] | list[int] | list[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """``values`` as a new 1-D tensor on ``device``; the host does not wait for the copy."""
    there = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return there.to(device, non_blocking=True)
