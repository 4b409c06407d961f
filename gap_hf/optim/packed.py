"""Buffers as bytes, for checkpoints that take every tensor of a parameter's state for one that is cut like it.

FSDP1's do (``torch/distributed/fsdp/_optim_utils.py``); numbers, text and bytes they carry as they are, if all ranks
have the same.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor


class Packed(bytes):
    """The memory of a buffer, row by row."""

    def cpu(self) -> "Packed":
        """Return itself: FSDP1 says this to all that it has sent from rank 0 (``_flatten_optim_state_dict``)."""
        return self


torch.serialization.add_safe_globals([Packed])  # so that torch.load(weights_only=True) takes it


def pack(state_dict: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return ``state_dict`` with bytes in the place of the buffers ``names``, which are in float32 or float64."""

    def packed(buffer: Tensor) -> Packed:
        return Packed(buffer.detach().cpu().contiguous().numpy().tobytes())

    state = {
        key: {name: packed(buffer) if name in names else buffer for name, buffer in found.items()}
        for key, found in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


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
