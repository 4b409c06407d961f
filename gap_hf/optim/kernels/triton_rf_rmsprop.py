"""Root-free RMSProp's fused CUDA kernels, in Triton (``triton_common.py`` says what they read).

Its buffers are F momentum buffers and the mean square. Its numbers: K momenta, K factors on the learning rate, K
places; the mean square's decay rate, and the weight of a squared gradient in it.
"""

import triton
import triton.language as tl

from .triton_common import (
    add_up,
    elements,
    filtered,
    learning_rate,
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
def mean_square(
    table: tl.tensor,
    numbers: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    g: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    DTYPE: tl.constexpr,
    UPDATE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Return the mean square, float32, as it is stored; with UPDATE, after an update by the gradients ``g``."""
    at = elements(table, n, 2 + F, i, begin, DTYPE, BLOCK, WHOLE)
    stored = read(at, inside, WHOLE)
    if UPDATE:
        alpha, rest = tl.load(numbers + 3 * K).to(tl.float32), tl.load(numbers + 3 * K + 1).to(tl.float32)
        stored = (stored.to(tl.float32) * alpha + rest * g * g).to(DTYPE)
        write(at, stored, inside, WHOLE)
    return stored.to(tl.float32)


@triton.jit
def direction(g: tl.tensor, p: tl.tensor, v: tl.tensor, eps: tl.tensor, decay: tl.tensor) -> tl.tensor:
    """Return g / (v + eps) + decay * p."""
    return tl.div_rn(g, v + eps) + decay * p


@triton.jit
def first_moment(
    table: tl.tensor,
    numbers: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    g: tl.tensor,
    d: tl.tensor,
    t: tl.tensor,
    j: tl.constexpr,
    PLACE: tl.constexpr,
    F: tl.constexpr,
    DTYPE: tl.constexpr,
    UPDATE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Return the buffer of candidate ``j`` as it is stored; with UPDATE, after an update by the directions ``d``.

    Where PLACE is F there is none, because it would be ``d`` itself. The gradients ``g`` are for the noise of rounding.
    """
    if PLACE == F:
        stored = d
    else:
        at = elements(table, n, 2 + PLACE, i, begin, DTYPE, BLOCK, WHOLE)
        stored = read(at, inside, WHOLE)
        if UPDATE:
            m = stored.to(tl.float32) * tl.load(numbers + j).to(tl.float32) + d
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
    eps: tl.tensor,
    decay: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    FIRST: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``observe`` for block ``b``."""
    inside = tl.arange(0, BLOCK) < count
    t = steps_of(table, n, i)
    g = filtered(table, n, i, begin, inside, 0.0, 3 + F, VALUE, False, MAXIMIZE, BLOCK, WHOLE)
    p = read(elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE), inside, WHOLE).to(tl.float32)
    v = mean_square(table, numbers, n, i, begin, inside, g, K, F, SECOND_DTYPE, True, BLOCK, WHOLE)
    d = direction(g, p, v, eps, decay)
    r = tl.div_rn(1.0, v + eps)
    if not WHOLE:
        r = tl.where(inside, r, 0.0)
    tl.store(partial + K * n_blocks + b, tl.sum(r))
    uphill = d * (v + eps)
    for j in tl.static_range(K):
        m = first_moment(
            table, numbers, n, i, begin, inside, g, d, t, j,
            (FIRST >> (16 * j)) & 0xFFFF, F, FIRST_DTYPE, True, STOCHASTIC, BLOCK, WHOLE,
        )  # fmt: skip
        tl.store(partial + j * n_blocks + b, tl.sum(uphill * m.to(tl.float32)))


@triton.jit(do_not_specialize=["n", "n_blocks"])
def observe(
    table: tl.tensor,
    blocks: tl.tensor,
    numbers: tl.tensor,
    partial: tl.tensor,
    n: tl.tensor,
    n_blocks: tl.tensor,
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
    BLOCK: tl.constexpr,
) -> None:
    """Update a block's buffers, and take its sums of (d / r) buf_j and of r.

    Args:
        partial: (K + 1, n_blocks) float32.
        L2: False; the decay is in the direction.
    """
    b = tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    aligned = tl.load(table + (4 + F) * n + i)
    if (aligned != 0) & (count == BLOCK):
        observe_block(
            table, numbers, partial, n, n_blocks, b, i, begin, count, eps, decay,
            K, F, FIRST, VALUE, FIRST_DTYPE, SECOND_DTYPE, MAXIMIZE, STOCHASTIC, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        observe_block(
            table, numbers, partial, n, n_blocks, b, i, begin, count, eps, decay,
            K, F, FIRST, VALUE, FIRST_DTYPE, SECOND_DTYPE, MAXIMIZE, STOCHASTIC, BLOCK, WHOLE=False,
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
    eps: tl.tensor,
    decay: tl.tensor,
    soft_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``apply`` for a block of fragment ``i``; lr is float64."""
    inside = tl.arange(0, BLOCK) < count
    at = elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE)
    p = read(at, inside, WHOLE).to(tl.float32)
    where = tl.load(numbers + 2 * K + j).to(tl.int64)
    rate = (lr * tl.load(numbers + K + j)).to(tl.float32)
    if where == F:
        g = filtered(table, n, i, begin, inside, 0.0, 3 + F, VALUE, False, MAXIMIZE, BLOCK, WHOLE)
        v = mean_square(table, numbers, n, i, begin, inside, g, K, F, SECOND_DTYPE, False, BLOCK, WHOLE)
        p = p - rate * direction(g, p, v, eps, decay)
    else:
        kept = elements(table, n, 2 + where, i, begin, FIRST_DTYPE, BLOCK, WHOLE)
        p = p - rate * read(kept, inside, WHOLE).to(tl.float32)
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
    eps: tl.tensor,
    decay: tl.tensor,
    soft_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    LR_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Step a block by its fragment's choice, then scale its buffers if a reset is due.

    Args:
        choices: n int64, this many elements apart.
        resets: n bool, likewise.
        lr: the learning rate, or a pointer to it.
        L2: False; the decay is in the direction.
    """
    # the blocks that the first pass touched last are still in the cache
    b = tl.num_programs(0) - 1 - tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    rate = learning_rate(lr, LR_ON_DEVICE)
    j = tl.load(choices + i * choice_stride)
    due = tl.load(resets + i * reset_stride)
    aligned = tl.load(table + (4 + F) * n + i)
    if (aligned != 0) & (count == BLOCK):
        apply_block(
            table, numbers, j, due, rate, n, i, begin, count, eps, decay, soft_reset,
            K, F, VALUE, FIRST_DTYPE, SECOND_DTYPE, MAXIMIZE, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        apply_block(
            table, numbers, j, due, rate, n, i, begin, count, eps, decay, soft_reset,
            K, F, VALUE, FIRST_DTYPE, SECOND_DTYPE, MAXIMIZE, BLOCK, WHOLE=False,
        )  # fmt: skip
