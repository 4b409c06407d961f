"""The Adam family's mix of all candidates, in Triton; ``triton_adam.py`` says which numbers it reads."""

import triton
import triton.language as tl

from .triton_adam import denominator, first_moment, reset, second_moment
from .triton_common import bias_correction, elements, filtered, learning_rate, place, read, steps_of, write
from .triton_eight_bit import floors

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
    l2: tl.tensor,
    decay: tl.tensor,
    soft_reset: tl.tensor,
    second_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    U: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    UPDATE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    RESET_SECOND: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``mix`` for a block of fragment ``i`` or, with UPDATE, ``step_constant``; lr is float64."""
    inside = tl.arange(0, BLOCK) < count
    t = steps_of(table, n, i)
    # with an L2 term they depend on the values, so they must be had before these move; where no candidate takes them,
    # the compiler leaves them out
    g = filtered(table, n, i, begin, inside, l2, 2 + F + U, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
    at = elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE)
    for u in tl.static_range(U):
        total = tl.zeros((BLOCK,), tl.float32)
        held = 0
        w = total  # the second moments, for first moments in 8 bits
        if tl.uint8 == FIRST_DTYPE:
            v = second_moment(table, numbers, n, i, begin, inside, g, u, K, F, U, SECOND_DTYPE, False, BLOCK, WHOLE)
            held = floors(v.to(tl.float32))
            if UPDATE:
                v = second_moment(table, numbers, n, i, begin, inside, g, u, K, F, U, SECOND_DTYPE, True, BLOCK, WHOLE)
            w = v.to(tl.float32)
        for j in tl.static_range(K):
            if ((SECOND >> (16 * j)) & 0xFFFF) == u:
                _, m = first_moment(
                    table, numbers, n, i, begin, inside, g, t, held, w, j,
                    (FIRST >> (16 * j)) & 0xFFFF, K, F, U, FIRST_DTYPE, UPDATE, STOCHASTIC, BLOCK, WHOLE,
                )  # fmt: skip
                rate = lr * tl.load(numbers + 2 * K + j) * tl.load(weights + j * weight_stride)
                total += (rate / bias_correction(tl.load(numbers + K + j), t)).to(tl.float32) * m.to(tl.float32)
        if tl.uint8 != FIRST_DTYPE:
            v = second_moment(table, numbers, n, i, begin, inside, g, u, K, F, U, SECOND_DTYPE, UPDATE, BLOCK, WHOLE)
        if u == 0:  # not before, where they would be in the way of the others
            p = read(at, inside, WHOLE).to(tl.float32) * (1.0 - lr * decay).to(tl.float32)
        p = p - tl.div_rn(total, denominator(numbers, v.to(tl.float32), u, t, eps, K, U))
    write(at, p.to(VALUE), inside, WHOLE)
    if due:
        reset(
            table, numbers, n, i, begin, inside, soft_reset, second_reset,
            K, F, U, FIRST_DTYPE, SECOND_DTYPE, RESET_SECOND, BLOCK, WHOLE,
        )  # fmt: skip


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
    l2: tl.tensor,
    decay: tl.tensor,
    soft_reset: tl.tensor,
    second_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    U: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    RESET_SECOND: tl.constexpr,
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
    aligned = tl.load(table + (3 + F + U) * n + i)
    if (aligned != 0) & (count == BLOCK):
        mix_block(
            table, numbers, mine, weight_stride, due, rate, n, i, begin, count, eps, l2, decay, soft_reset,
            second_reset, K, F, U, FIRST, SECOND, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, False, False,
            RESET_SECOND, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        mix_block(
            table, numbers, mine, weight_stride, due, rate, n, i, begin, count, eps, l2, decay, soft_reset,
            second_reset, K, F, U, FIRST, SECOND, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, False, False,
            RESET_SECOND, BLOCK, WHOLE=False,
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
    l2: tl.tensor,
    decay: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    U: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    LR_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Update a block's moments, and step it by the weighted sum of all candidates.

    Args:
        weights: K float64, the same for all fragments.
        lr: the learning rate, or a pointer to it.
    """
    i, begin, count = place(blocks, n, tl.program_id(0), BLOCK)
    rate = learning_rate(lr, LR_ON_DEVICE)
    aligned = tl.load(table + (3 + F + U) * n + i)
    if (aligned != 0) & (count == BLOCK):
        mix_block(
            table, numbers, weights, 1, False, rate, n, i, begin, count, eps, l2, decay, 1.0,
            1.0, K, F, U, FIRST, SECOND, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, True, STOCHASTIC,
            False, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        mix_block(
            table, numbers, weights, 1, False, rate, n, i, begin, count, eps, l2, decay, 1.0,
            1.0, K, F, U, FIRST, SECOND, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, True, STOCHASTIC,
            False, BLOCK, WHOLE=False,
        )  # fmt: skip
