"""Buffers as bytes, for checkpoints that take every tensor of a parameter's state for one that is cut like it.

FSDP1's do (``torch/distributed/fsdp/_optim_utils.py``). What is no tensor they carry as it is, the same on all ranks.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor


def pack(state_dict: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return ``state_dict`` with bytes in the place of the buffers ``names``, which are in float32 or float64."""
    state = {
        key: {name: to_bytes(buffer) if name in names else buffer for name, buffer in found.items()}
        for key, found in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def to_bytes(buffer: Tensor) -> bytes:
    """Return the memory of ``buffer``, as it lies row by row."""
    return buffer.detach().cpu().contiguous().numpy().tobytes()


def unpack(data: bytes, shape: torch.Size, what: str) -> Tensor:
    """Return the buffer of the given shape that was packed into ``data``.

    Raises:
        ValueError: there are more or fewer bytes, as if from another model.
    """
    sizes = {dtype.itemsize * shape.numel(): dtype for dtype in (torch.float32, torch.float64)}
    if len(data) not in sizes:
        raise ValueError(
            f"this state is of another model: {what} has {len(data)} bytes; expected one of {sorted(sizes)}, the bytes "
            f"of the shape {tuple(shape)}"
        )
    if not data:
        return torch.zeros(shape)
    return torch.frombuffer(bytearray(data), dtype=sizes[len(data)]).view(shape)
