"""First moments in 8 bits, block-wise, in torchao's format (``torchao.optim.subclass_8bit``, arXiv 2110.02861).

Second moments are not stored so: GAP reads v back after storing it, and a v that was quantized to 0 would make
r = 1 / eps. (torchao's and bitsandbytes' Adam apply the v of the same step before they quantize it.)
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 256
"""Elements that share a scale."""

SMALLEST = 4096
"""A parameter with fewer elements keeps float32, as in torchao and bitsandbytes: there is nothing to save."""


def tensor_class() -> Any:
    """Return torchao's class of 8-bit tensors.

    Raises:
        ImportError: torchao is not installed; the message says what to do.
    """
    try:
        from torchao.optim.subclass_8bit import OptimState8bit
    except ImportError as error:
        raise ImportError(
            f"state_dtype='8bit' keeps its state in torchao's format ({error}); pip install 'torchao>=0.13'"
        ) from error
    return OptimState8bit


def zeros_like(key: Tensor) -> Tensor:
    """Make zeros of ``key``'s shape: in 8 bits if it has enough elements in whole blocks, else in float32."""
    if key.numel() < SMALLEST or key.numel() % BLOCK:
        return torch.zeros_like(key, dtype=torch.float32, memory_format=torch.preserve_format)
    return tensor_class().zeros(key.shape, signed=True, block_size=BLOCK, device=key.device)


def is_eight_bit(tensor: Tensor) -> bool:
    """Whether ``tensor`` is in torchao's format."""
    return type(tensor).__name__ == "OptimState8bit"
