"""Root-free RMSProp's mix of all candidates, in Triton; ``triton_rf_rmsprop.py`` says which numbers it reads."""

import triton
import triton.language as tl

from .triton_common import elements, filtered, learning_rate, place, read, scale_buffer, steps_of, write
from .triton_rf_rmsprop import direction, first_moment, mean_square

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
    eps: tl.tensor,
    decay: tl.tensor,
    soft_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    FIRST: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    UPDATE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``mix`` for a block of fragment ``i`` or, with UPDATE, ``step_constant``; lr is float64."""
    inside = tl.arange(0, BLOCK) < count
    t = steps_of(table, n, i)
    g = filtered(table, n, i, begin, inside, 0.0, 3 + F, VALUE, False, MAXIMIZE, BLOCK, WHOLE)
    at = elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE)
    p = read(at, inside, WHOLE).to(tl.float32)
    v = mean_square(table, numbers, n, i, begin, inside, g, K, F, SECOND_DTYPE, UPDATE, BLOCK, WHOLE)
    d = direction(g, p, v, eps, decay)
    for j in tl.static_range(K):
        m = first_moment(
            table, numbers, n, i, begin, inside, g, d, t, j,
            (FIRST >> (16 * j)) & 0xFFFF, F, FIRST_DTYPE, UPDATE, STOCHASTIC, BLOCK, WHOLE,
        )  # fmt: skip
        rate = lr * tl.load(numbers + K + j) * tl.load(weights + j * weight_stride)
        p = p - rate.to(tl.float32) * m.to(tl.float32)
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
    eps: tl.tensor,
    decay: tl.tensor,
    soft_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    FIRST: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    LR_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Step a block by its fragment's weighted sum of all candidates, then scale its buffers if a reset is due.

    Args:
        weights: (n, K) float64, with these strides.
        resets: n bool, this many elements apart.
        lr: the learning rate, or a pointer to it.
        L2: False; the decay is in the direction.
    """
    # the blocks that the first pass touched last are still in the cache
    b = tl.num_programs(0) - 1 - tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    rate = learning_rate(lr, LR_ON_DEVICE)
    mine = weights + i * row_stride
    due = tl.load(resets + i * reset_stride)
    aligned = tl.load(table + (4 + F) * n + i)
    if (aligned != 0) & (count == BLOCK):
        mix_block(
            table, numbers, mine, weight_stride, due, rate, n, i, begin, count, eps, decay, soft_reset,
            K, F, FIRST, VALUE, FIRST_DTYPE, SECOND_DTYPE, MAXIMIZE, False, False, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        mix_block(
            table, numbers, mine, weight_stride, due, rate, n, i, begin, count, eps, decay, soft_reset,
            K, F, FIRST, VALUE, FIRST_DTYPE, SECOND_DTYPE, MAXIMIZE, False, False, BLOCK, WHOLE=False,
        )  # fmt: skip


@triton.jit(do_not_specialize=["weights", "lr", "n"])
def step_constant(
    table: tl.tensor,
    blocks: tl.tensor,
    numbers: tl.tensor,
    weights: tl.tensor,
    lr: tl.tensor,
    n: tl.tensor,
    eps: tl.tensor,
    decay: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    FIRST: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    LR_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Update a block's buffers, and step it by the weighted sum of all candidates.

    Args:
        weights: K float64, the same for all fragments.
        lr: the learning rate, or a pointer to it.
        L2: False; the decay is in the direction.
    """
    i, begin, count = place(blocks, n, tl.program_id(0), BLOCK)
    rate = learning_rate(lr, LR_ON_DEVICE)
    aligned = tl.load(table + (4 + F) * n + i)
    if (aligned != 0) & (count == BLOCK):
        mix_block(
            table, numbers, weights, 1, False, rate, n, i, begin, count, eps, decay, 1.0,
            K, F, FIRST, VALUE, FIRST_DTYPE, SECOND_DTYPE, MAXIMIZE, True, STOCHASTIC, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        mix_block(
            table, numbers, weights, 1, False, rate, n, i, begin, count, eps, decay, 1.0,
            K, F, FIRST, VALUE, FIRST_DTYPE, SECOND_DTYPE, MAXIMIZE, True, STOCHASTIC, BLOCK, WHOLE=False,
        )  # fmt: skip
