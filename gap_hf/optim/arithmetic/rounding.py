"""Stochastic rounding to bfloat16 without a random generator.

The noise is a hash of what enters the filter (gradient, old moment, step, candidate), so the same elements round the
same way in every sharding and after every resume, with nothing to save. Rounding to the nearest instead would stop a
slow average altogether: (1 - beta) * (g - m) is mostly less than half a step of bfloat16.
"""

from typing import NamedTuple

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


class Draw(NamedTuple):
    """Which noise a moment is rounded by: another one at each step and for each candidate."""

    step: int
    candidate: int


def noise_for(grad: Tensor, old: Tensor, draw: Draw, bits: int = 16) -> Tensor:
    """Return ``bits`` bits of noise for each element, int32.

    Two candidates share a hash of the gradient, of which one has the first bits and the other the last. The old moment
    turns it, so that elements with the same gradient (zero, say) are not all rounded the same way.

    Args:
        grad: float32, the gradient that entered the filter.
        old: int32, the bits of the moment that was stored before.
        draw: which noise to draw.
        bits: how many. With more than 16, the last bits of one candidate's noise are the first of the other's, which
            hardly matters: whether a number is rounded up depends on the first ones.
    """
    salt = signed(draw.step * 0x9E3779B9 + draw.candidate // 2 * 0x85EBCA6B)
    hashed = hash32(grad.view(torch.int32) + salt)
    part = unsigned_shift(hashed, 32 - bits) if draw.candidate % 2 else hashed
    return (part + old * 0x9E3B) & ((1 << bits) - 1)


def round_stochastically(exact: Tensor, grad: Tensor, old: Tensor, draw: Draw) -> Tensor:
    """Round ``exact`` up or down to bfloat16: the nearer a neighbour, the more probable it is.

    Args:
        exact: float32.
        grad: float32, the gradient that entered the filter, same shape.
        old: bfloat16, the moment before, same shape.
        draw: which noise to draw.
    """
    noise = noise_for(grad, old.view(torch.int16).to(torch.int32) & 0xFFFF, draw)
    rounded = ((exact.view(torch.int32) + noise) & signed(0xFFFF0000)).view(torch.float32)
    return torch.where(exact.isfinite(), rounded, exact).to(torch.bfloat16)
