"""The Adam family's fused CUDA kernels, in Triton (``triton_common.py`` says what they read).

K first moments, then U second moments, are its buffers. Its numbers: K beta1, their K logarithms, K factors on the
learning rate, K second moments that the candidates use; U beta2, their U logarithms.
"""

import triton
import triton.language as tl

from .triton_common import (
    add_up,
    bias_correction,
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
    l2: tl.tensor,
    K: tl.constexpr,
    U: tl.constexpr,
    SECOND: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``observe`` for block ``b``."""
    inside = tl.arange(0, BLOCK) < count
    t = steps_of(table, n, i)
    g = filtered(table, n, i, begin, inside, l2, 2 + K + U, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
    for u in tl.static_range(U):
        at = elements(table, n, 2 + K + u, i, begin, SECOND_DTYPE, BLOCK, WHOLE)
        beta2 = tl.load(numbers + 4 * K + u)
        v = read(at, inside, WHOLE).to(tl.float32)
        v = v * beta2.to(tl.float32) + (1.0 - beta2).to(tl.float32) * g * g
        stored = v.to(SECOND_DTYPE)
        write(at, stored, inside, WHOLE)
        scale = (1.0 / bias_correction(tl.load(numbers + 4 * K + U + u), t)).to(tl.float32)
        r = tl.div_rn(1.0, tl.sqrt_rn(stored.to(tl.float32) * scale) + eps)
        if not WHOLE:
            r = tl.where(inside, r, 0.0)
        tl.store(partial + (K + u) * n_blocks + b, tl.sum(r))
        weighted = r * g
        for j in tl.static_range(K):
            if ((SECOND >> (8 * j)) & 255) == u:
                at = elements(table, n, 2 + j, i, begin, FIRST_DTYPE, BLOCK, WHOLE)
                old = read(at, inside, WHOLE)
                m = old.to(tl.float32)
                # in the form that torch.lerp takes: from the nearer end
                weight = (1.0 - tl.load(numbers + j)).to(tl.float32)
                near = weight < 0.5
                m = tl.where(near, m, g) + tl.where(near, weight, weight - 1.0) * (g - m)
                if STOCHASTIC:
                    new = rounded_stochastically(m, g, old, t, j)
                else:
                    new = m.to(FIRST_DTYPE)
                write(at, new, inside, WHOLE)
                tl.store(partial + j * n_blocks + b, tl.sum(weighted * new.to(tl.float32)))


@triton.jit(do_not_specialize=["n", "n_blocks"])
def observe(
    table: tl.tensor,
    blocks: tl.tensor,
    numbers: tl.tensor,
    partial: tl.tensor,
    n: tl.tensor,
    n_blocks: tl.tensor,
    eps: tl.tensor,
    l2: tl.tensor,
    K: tl.constexpr,
    U: tl.constexpr,
    SECOND: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Update a block's moments, and take its sums of g r m_j and of r.

    Args:
        partial: (K + U, n_blocks) float32.
        SECOND: a byte for each candidate, the lowest for the first, that says which second moment it uses.
    """
    b = tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    aligned = tl.load(table + (3 + K + U) * n + i)
    if (aligned != 0) & (count == BLOCK):
        observe_block(
            table, numbers, partial, n, n_blocks, b, i, begin, count, eps, l2,
            K, U, SECOND, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, STOCHASTIC, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        observe_block(
            table, numbers, partial, n, n_blocks, b, i, begin, count, eps, l2,
            K, U, SECOND, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, STOCHASTIC, BLOCK, WHOLE=False,
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
    second_reset: tl.tensor,
    K: tl.constexpr,
    U: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    RESET_SECOND: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``apply`` for a block of fragment ``i``; lr is float64."""
    inside = tl.arange(0, BLOCK) < count
    at = elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE)
    p = read(at, inside, WHOLE).to(tl.float32)
    m = read(elements(table, n, 2 + j, i, begin, FIRST_DTYPE, BLOCK, WHOLE), inside, WHOLE).to(tl.float32)
    t = steps_of(table, n, i)
    u = tl.load(numbers + 3 * K + j).to(tl.int64)
    v = read(elements(table, n, 2 + K + u, i, begin, SECOND_DTYPE, BLOCK, WHOLE), inside, WHOLE).to(tl.float32)
    rate = lr * tl.load(numbers + 2 * K + j)
    rate = (rate / bias_correction(tl.load(numbers + K + j), t)).to(tl.float32)
    scale = (1.0 / tl.sqrt(bias_correction(tl.load(numbers + 4 * K + U + u), t))).to(tl.float32)
    keep = (1.0 - lr * decay).to(tl.float32)
    p = p * keep - rate * tl.div_rn(m, tl.sqrt_rn(v) * scale + eps)
    write(at, p.to(VALUE), inside, WHOLE)
    if due:
        for c in tl.static_range(K):
            scale_buffer(table, n, 2 + c, i, begin, inside, soft_reset, FIRST_DTYPE, BLOCK, WHOLE)
        if RESET_SECOND:
            for c in tl.static_range(U):
                scale_buffer(table, n, 2 + K + c, i, begin, inside, second_reset, SECOND_DTYPE, BLOCK, WHOLE)


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
    second_reset: tl.tensor,
    K: tl.constexpr,
    U: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    RESET_SECOND: tl.constexpr,
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
    aligned = tl.load(table + (3 + K + U) * n + i)
    if (aligned != 0) & (count == BLOCK):
        apply_block(
            table, numbers, j, due, rate, n, i, begin, count, eps, decay, soft_reset, second_reset,
            K, U, VALUE, FIRST_DTYPE, SECOND_DTYPE, RESET_SECOND, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        apply_block(
            table, numbers, j, due, rate, n, i, begin, count, eps, decay, soft_reset, second_reset,
            K, U, VALUE, FIRST_DTYPE, SECOND_DTYPE, RESET_SECOND, BLOCK, WHOLE=False,
        )  # fmt: skip
