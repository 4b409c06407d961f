"""What travels from rank 0 to the others."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .sharded import reduction_device


def is_first() -> bool:
    """Whether this is rank 0."""
    return not dist.is_initialized() or dist.get_rank() == 0


def from_first(found: Any) -> Any:
    """Return what rank 0 gave. Every rank must call it."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return found
    box = [found]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def sent(given: Tensor | None, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return rank 0's tensor ``given``, of this shape and dtype, on ``device``. Every rank must call it."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        assert given is not None
        return given.to(device)
    place = reduction_device(device, None)
    moved = torch.empty(shape, dtype=dtype, device=place) if given is None else given.to(place).contiguous()
    dist.broadcast(moved, src=0)
    return moved.to(device)
