"""Sums over whole tensors, which scores are made of."""

import torch
from torch import Tensor

from ...sharding.layout import has_float64


def summed(tensors: list[Tensor]) -> Tensor:
    """Return the sum of each of N tensors of one dtype, ``(N,)``, float64 where the device has it.

    Within a tensor torch adds up float32 in a tree, which is as good as a rounding or two. Asked for a sum in float64,
    it would first make a copy of the whole tensor in float64 (``sum_out`` in ``aten/src/ATen/native/ReduceOps.cpp``).
    """
    return wide(torch.stack([t.sum() for t in tensors]))


def wide(sums: Tensor) -> Tensor:
    """Return ``sums`` in float64: on their device if it has float64, otherwise on the CPU, in one transfer."""
    return sums.to(sums.device if has_float64(sums.device) else "cpu").double()
