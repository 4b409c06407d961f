"""The SGDM family's fused CUDA kernels, in Triton (``triton_common.py`` says what they read).

Its buffers are F momentum buffers. Its numbers: K momenta, K factors on the learning rate, K places.
"""

import triton
import triton.language as tl

from .triton_common import (
    add_up,
    elements,
    filtered,
    learning_rate,
    picked_moment,
    place,
    read,
    rounded_stochastically,
    scale_buffer,
    steps_of,
    tick,
    write,
)

__all__ = ["add_up", "apply", "observe", "tick"]

# ---------------------------------------------------------------- buffers


@triton.jit
def undampened(t: tl.tensor, rest: tl.tensor) -> tl.tensor:
    """Return the factor on gradients that enter a buffer, which begins as the gradient itself."""
    return tl.where(t == 1.0, 1.0, rest)


@triton.jit
def first_moment(
    table: tl.tensor,
    numbers: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    g: tl.tensor,
    t: tl.tensor,
    rest: tl.tensor,
    j: tl.constexpr,
    PLACE: tl.constexpr,
    F: tl.constexpr,
    DTYPE: tl.constexpr,
    UPDATE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Return the buffer of candidate ``j`` as it is stored; with UPDATE, after an update by the gradients ``g``.

    Where PLACE is F there is none, and what it would hold is made from ``g``.
    """
    if PLACE == F:
        stored = undampened(t, rest) * g
    else:
        at = elements(table, n, 2 + PLACE, i, begin, DTYPE, BLOCK, WHOLE)
        stored = read(at, inside, WHOLE)
        if UPDATE:
            m = tl.where(t == 1.0, g, stored.to(tl.float32) * tl.load(numbers + j).to(tl.float32) + rest * g)
            if STOCHASTIC:
                stored = rounded_stochastically(m, g, stored, t, j)
            else:
                stored = m.to(DTYPE)
            write(at, stored, inside, WHOLE)
    return stored


# ---------------------------------------------------------------- the first pass


@triton.jit
def observe_block(
    table: tl.tensor,
    numbers: tl.tensor,
    partial: tl.tensor,
    n: tl.tensor,
    n_blocks: tl.tensor,
    b: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    count: tl.tensor,
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
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``observe`` for block ``b``."""
    inside = tl.arange(0, BLOCK) < count
    t = steps_of(table, n, i)
    g = filtered(table, n, i, begin, inside, l2, 2 + F, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
    for j in tl.static_range(K):
        m = first_moment(
            table, numbers, n, i, begin, inside, g, t, rest, j,
            (FIRST >> (16 * j)) & 0xFFFF, F, FIRST_DTYPE, True, STOCHASTIC, BLOCK, WHOLE,
        )  # fmt: skip
        tl.store(partial + j * n_blocks + b, tl.sum(g * m.to(tl.float32)))


@triton.jit(do_not_specialize=["n", "n_blocks"])
def observe(
    table: tl.tensor,
    blocks: tl.tensor,
    numbers: tl.tensor,
    partial: tl.tensor,
    n: tl.tensor,
    n_blocks: tl.tensor,
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
    BLOCK: tl.constexpr,
) -> None:
    """Update a block's buffers, and take its sums of g buf_j.

    Args:
        partial: (K, n_blocks) float32.
        rest: 1 - dampening.
    """
    b = tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    aligned = tl.load(table + (3 + F) * n + i)
    if (aligned != 0) & (count == BLOCK):
        observe_block(
            table, numbers, partial, n, n_blocks, b, i, begin, count, l2, rest,
            K, F, FIRST, VALUE, FIRST_DTYPE, L2, MAXIMIZE, STOCHASTIC, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        observe_block(
            table, numbers, partial, n, n_blocks, b, i, begin, count, l2, rest,
            K, F, FIRST, VALUE, FIRST_DTYPE, L2, MAXIMIZE, STOCHASTIC, BLOCK, WHOLE=False,
        )  # fmt: skip


# ---------------------------------------------------------------- the second pass


@triton.jit
def apply_block(
    table: tl.tensor,
    numbers: tl.tensor,
    j: tl.tensor,
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
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    NESTEROV: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``apply`` for a block of fragment ``i``; lr is float64."""
    inside = tl.arange(0, BLOCK) < count
    at = elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE)
    p = read(at, inside, WHOLE).to(tl.float32)
    m = picked_moment(
        table, numbers + 2 * K, j, n, i, begin, inside, l2, undampened(steps_of(table, n, i), rest),
        K, F, 2 + F, VALUE, FIRST_DTYPE, L2, MAXIMIZE, BLOCK, WHOLE,
    )  # fmt: skip
    rate = lr * tl.load(numbers + K + j)
    if NESTEROV:
        g = filtered(table, n, i, begin, inside, l2, 2 + F, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
        m = g + tl.load(numbers + j).to(tl.float32) * m
    p = p - rate.to(tl.float32) * m
    write(at, p.to(VALUE), inside, WHOLE)
    if due:
        for c in tl.static_range(F):
            scale_buffer(table, n, 2 + c, i, begin, inside, soft_reset, FIRST_DTYPE, BLOCK, WHOLE)


@triton.jit(do_not_specialize=["choices", "choice_stride", "resets", "reset_stride", "lr", "n"])
def apply(
    table: tl.tensor,
    blocks: tl.tensor,
    numbers: tl.tensor,
    choices: tl.tensor,
    choice_stride: tl.tensor,
    resets: tl.tensor,
    reset_stride: tl.tensor,
    lr: tl.tensor,
    n: tl.tensor,
    l2: tl.tensor,
    rest: tl.tensor,
    soft_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    NESTEROV: tl.constexpr,
    LR_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Step a block by its fragment's choice, then scale its buffers if a reset is due.

    Args:
        choices: n int64, this many elements apart.
        resets: n bool, likewise.
        lr: the learning rate, or a pointer to it.
    """
    # the blocks that the first pass touched last are still in the cache
    b = tl.num_programs(0) - 1 - tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    rate = learning_rate(lr, LR_ON_DEVICE)
    j = tl.load(choices + i * choice_stride)
    due = tl.load(resets + i * reset_stride)
    aligned = tl.load(table + (3 + F) * n + i)
    if (aligned != 0) & (count == BLOCK):
        apply_block(
            table, numbers, j, due, rate, n, i, begin, count, l2, rest, soft_reset,
            K, F, VALUE, FIRST_DTYPE, L2, MAXIMIZE, NESTEROV, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        apply_block(
            table, numbers, j, due, rate, n, i, begin, count, l2, rest, soft_reset,
            K, F, VALUE, FIRST_DTYPE, L2, MAXIMIZE, NESTEROV, BLOCK, WHOLE=False,
        )  # fmt: skip
