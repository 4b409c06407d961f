"""The SGDM family's mix of all candidates, in Triton; ``triton_sgdm.py`` says which numbers it reads."""

import triton
import triton.language as tl

from .triton_common import elements, filtered, learning_rate, place, read, scale_buffer, steps_of, write
from .triton_sgdm import first_moment

__all__ = ["mix", "step_constant"]


@triton.jit
def mix_block(
    table: tl.tensor,
    numbers: tl.tensor,
    weights: tl.tensor,
    weight_stride: tl.tensor,
    due: tl.tensor,
    lr: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    count: tl.tensor,
    l2: tl.tensor,
    rest: tl.tensor,
    soft_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    FIRST: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    NESTEROV: tl.constexpr,
    UPDATE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``mix`` for a block of fragment ``i`` or, with UPDATE, ``step_constant``; lr is float64."""
    inside = tl.arange(0, BLOCK) < count
    t = steps_of(table, n, i)
    # with an L2 term they depend on the values, so they must be had before these move; where no candidate takes them,
    # the compiler leaves them out
    g = filtered(table, n, i, begin, inside, l2, 2 + F, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
    at = elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE)
    p = read(at, inside, WHOLE).to(tl.float32)
    for j in tl.static_range(K):
        stored = first_moment(
            table, numbers, n, i, begin, inside, g, t, rest, j,
            (FIRST >> (16 * j)) & 0xFFFF, F, FIRST_DTYPE, UPDATE, STOCHASTIC, BLOCK, WHOLE,
        )  # fmt: skip
        m = stored.to(tl.float32)
        if NESTEROV:
            m = g + tl.load(numbers + j).to(tl.float32) * m
        rate = lr * tl.load(numbers + K + j) * tl.load(weights + j * weight_stride)
        p = p - rate.to(tl.float32) * m
    write(at, p.to(VALUE), inside, WHOLE)
    if due:
        for c in tl.static_range(F):
            scale_buffer(table, n, 2 + c, i, begin, inside, soft_reset, FIRST_DTYPE, BLOCK, WHOLE)


@triton.jit(do_not_specialize=["weights", "row_stride", "weight_stride", "resets", "reset_stride", "lr", "n"])
def mix(
    table: tl.tensor,
    blocks: tl.tensor,
    numbers: tl.tensor,
    weights: tl.tensor,
    row_stride: tl.tensor,
    weight_stride: tl.tensor,
    resets: tl.tensor,
    reset_stride: tl.tensor,
    lr: tl.tensor,
    n: tl.tensor,
    l2: tl.tensor,
    rest: tl.tensor,
    soft_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    FIRST: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    NESTEROV: tl.constexpr,
    LR_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Step a block by its fragment's weighted sum of all candidates, then scale its buffers if a reset is due.

    Args:
        weights: (n, K) float64, with these strides.
        resets: n bool, this many elements apart.
        lr: the learning rate, or a pointer to it.
    """
    # the blocks that the first pass touched last are still in the cache
    b = tl.num_programs(0) - 1 - tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    rate = learning_rate(lr, LR_ON_DEVICE)
    mine = weights + i * row_stride
    due = tl.load(resets + i * reset_stride)
    aligned = tl.load(table + (3 + F) * n + i)
    if (aligned != 0) & (count == BLOCK):
        mix_block(
            table, numbers, mine, weight_stride, due, rate, n, i, begin, count, l2, rest, soft_reset,
            K, F, FIRST, VALUE, FIRST_DTYPE, L2, MAXIMIZE, NESTEROV, False, False, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        mix_block(
            table, numbers, mine, weight_stride, due, rate, n, i, begin, count, l2, rest, soft_reset,
            K, F, FIRST, VALUE, FIRST_DTYPE, L2, MAXIMIZE, NESTEROV, False, False, BLOCK, WHOLE=False,
        )  # fmt: skip


@triton.jit(do_not_specialize=["weights", "lr", "n"])
def step_constant(
    table: tl.tensor,
    blocks: tl.tensor,
    numbers: tl.tensor,
    weights: tl.tensor,
    lr: tl.tensor,
    n: tl.tensor,
    l2: tl.tensor,
    rest: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    FIRST: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    NESTEROV: tl.constexpr,
    LR_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Update a block's buffers, and step it by the weighted sum of all candidates.

    Args:
        weights: K float64, the same for all fragments.
        lr: the learning rate, or a pointer to it.
    """
    i, begin, count = place(blocks, n, tl.program_id(0), BLOCK)
    rate = learning_rate(lr, LR_ON_DEVICE)
    aligned = tl.load(table + (3 + F) * n + i)
    if (aligned != 0) & (count == BLOCK):
        mix_block(
            table, numbers, weights, 1, False, rate, n, i, begin, count, l2, rest, 1.0,
            K, F, FIRST, VALUE, FIRST_DTYPE, L2, MAXIMIZE, NESTEROV, True, STOCHASTIC, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        mix_block(
            table, numbers, weights, 1, False, rate, n, i, begin, count, l2, rest, 1.0,
            K, F, FIRST, VALUE, FIRST_DTYPE, L2, MAXIMIZE, NESTEROV, True, STOCHASTIC, BLOCK, WHOLE=False,
        )  # fmt: skip
