"""Stochastic rounding to bfloat16 without a random generator.

The noise is a hash of what enters the filter (gradient, old moment, step, candidate), so the same elements round the
same way in every sharding and after every resume, with nothing to save. Rounding to the nearest instead would stop a
slow average altogether: (1 - beta) * (g - m) is mostly less than half a step of bfloat16.
"""

import torch
from torch import Tensor


def hash32(x: Tensor) -> Tensor:
    """Hash each element by Chris Wellons' ``lowbias32`` (public domain), in ``int32`` arithmetic that wraps around."""
    x = x ^ unsigned_shift(x, 16)
    x = x * 0x7FEB352D
    x = x ^ unsigned_shift(x, 15)
    x = x * signed(0x846CA68B)
    return x ^ unsigned_shift(x, 16)


def unsigned_shift(x: Tensor, bits: int) -> Tensor:
    """Shift right as ``x >> bits`` does, but shift in zeros."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def signed(x: int) -> int:
    """Return the int32 that has the same 32 bits as ``x`` modulo 2^32."""
    return (x & 0xFFFFFFFF) - ((x & 0x80000000) << 1)


def salt(step: int, candidate: int) -> int:
    """Return the int32 that makes the hash of each step and candidate different."""
    return signed(step * 0x9E3779B9 + candidate * 0x85EBCA6B)


def round_stochastically(exact: Tensor, grad: Tensor, old: Tensor, salt: int) -> Tensor:
    """Round ``exact`` up or down to bfloat16: the nearer a neighbour, the more probable it is.

    Args:
        exact: float32.
        grad: float32, the gradient that entered the filter, same shape.
        old: bfloat16, the moment before, same shape.
        salt: the salt of this step and candidate.
    """
    old_bits = old.view(torch.int16).to(torch.int32) & 0xFFFF
    noise = hash32((grad.view(torch.int32) ^ old_bits) + salt) & 0xFFFF
    rounded = ((exact.view(torch.int32) + noise) & signed(0xFFFF0000)).view(torch.float32)
    return torch.where(exact.isfinite(), rounded, exact).to(torch.bfloat16)
