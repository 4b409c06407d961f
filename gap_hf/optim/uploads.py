"""Small tables on the device, which are uploaded once: uploads from ordinary memory make the host wait for it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

CAPTURED: list[Tensor] = []
"""What CUDA graphs read: kept as long as the process, because a graph reads it at the same address at every replay."""


def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``values`` as a 1-D tensor on ``device``, mostly the same one every time: never write to it."""
    tensor = remembered(values, dtype, device)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        CAPTURED.append(tensor)
    return tensor


@lru_cache(maxsize=512)
def remembered(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Upload ``values`` as ``upload`` does, but remember the latest tensors."""
    return upload(values, dtype, device)


def upload(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Make a new tensor of ``values``, numbers or lists of them, on ``device``; the host does not wait for the copy."""
    there = torch.tensor(values, dtype=dtype, device="cpu", pin_memory=device.type == "cuda")
    return there.to(device, non_blocking=True)
