"""The fused CUDA kernels of Adam and root-free AdamW, in Triton (``triton_common.py`` says what they read).

F first moments, then U second moments, are their buffers. Their numbers: K beta1, their K logarithms, K factors on the
learning rate, K second moments that the candidates use, K places; U beta2, their U logarithms; the batch size, 0 for
Adam; K exponents, for moments in 8 bits. Without bias corrections, as in a root-free family, the logarithms are minus
infinity.
"""

import triton
import triton.language as tl

from .triton_common import (
    add_up,
    bias_correction,
    elements,
    filtered,
    learning_rate,
    noise_for,
    picked_moment,
    place,
    read,
    rounded_stochastically,
    scale_buffer,
    steps_of,
    tick,
    write,
)
from .triton_eight_bit import decode, encode, floors, lift

__all__ = ["add_up", "apply", "observe", "tick"]

# ---------------------------------------------------------------- moments


@triton.jit
def second_moment(
    table: tl.tensor,
    numbers: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    g: tl.tensor,
    u: tl.constexpr,
    K: tl.constexpr,
    F: tl.constexpr,
    U: tl.constexpr,
    DTYPE: tl.constexpr,
    UPDATE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Return second moment ``u`` as it is stored; with UPDATE, after an update by the gradients ``g``."""
    at = elements(table, n, 2 + F + u, i, begin, DTYPE, BLOCK, WHOLE)
    if UPDATE:
        beta2 = tl.load(numbers + 5 * K + u)
        v = read(at, inside, WHOLE).to(tl.float32)
        batch_size = tl.load(numbers + 5 * K + 2 * U)
        rest = (1.0 - beta2) * tl.where(batch_size > 0, batch_size, 1.0)
        stored = (v * beta2.to(tl.float32) + rest.to(tl.float32) * g * g).to(DTYPE)
        write(at, stored, inside, WHOLE)
    else:
        stored = read(at, inside, WHOLE)
    return stored


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
    held: tl.tensor,
    v: tl.tensor,
    j: tl.constexpr,
    PLACE: tl.constexpr,
    K: tl.constexpr,
    F: tl.constexpr,
    U: tl.constexpr,
    DTYPE: tl.constexpr,
    UPDATE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Return the first moment of candidate ``j`` likewise, once for its score and once as it is stored.

    It is ``g`` itself where PLACE is F. In 8 bits it is scored as it was before rounding; ``held`` are the floors of
    its second moments before the update, and ``v`` these after it, float32.
    """
    if PLACE == F:
        stored = g
        scored = g
    else:
        at = elements(table, n, 2 + PLACE, i, begin, DTYPE, BLOCK, WHOLE)
        stored = read(at, inside, WHOLE)
        scored = stored
        if tl.uint8 == DTYPE:
            code = stored
            up = lift(numbers + 5 * K + 2 * U + 1, j)
            stored = decode(code, held + up)
            if not UPDATE:
                stored += v * 0.0  # NaN where v is not finite, which no code is
        if UPDATE:
            m = stored.to(tl.float32)
            # in the form that torch.lerp takes: from the nearer end
            weight = (1.0 - tl.load(numbers + j)).to(tl.float32)
            near = weight < 0.5
            m = tl.where(near, m, g) + tl.where(near, weight, weight - 1.0) * (g - m)
            if tl.uint8 == DTYPE:
                floor = floors(v) + up
                code = encode(m, floor, noise_for(g, code.to(tl.uint32), t, j, 19))
                write(at, code, inside, WHOLE)
                scored = m + v * 0.0
                stored = decode(code, floor) + v * 0.0
            else:
                if STOCHASTIC:
                    stored = rounded_stochastically(m, g, stored, t, j)
                else:
                    stored = m.to(DTYPE)
                scored = stored
                write(at, stored, inside, WHOLE)
    return scored, stored


@triton.jit
def denominator(
    numbers: tl.tensor, v: tl.tensor, u: tl.tensor, t: tl.tensor, eps: tl.tensor, K: tl.constexpr, U: tl.constexpr
) -> tl.tensor:
    """Return the denominators of elements with second moments ``v``, float32, which are the ``u``-th."""
    batch_size = tl.load(numbers + 5 * K + 2 * U)
    scale = (1.0 / tl.sqrt(bias_correction(tl.load(numbers + 5 * K + U + u), t))).to(tl.float32)
    return tl.where(batch_size > 0, v, tl.sqrt_rn(v) * scale) + eps


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
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``observe`` for block ``b``."""
    inside = tl.arange(0, BLOCK) < count
    t = steps_of(table, n, i)
    g = filtered(table, n, i, begin, inside, l2, 2 + F + U, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
    for u in tl.static_range(U):
        held = 0
        if tl.uint8 == FIRST_DTYPE:
            v = second_moment(table, numbers, n, i, begin, inside, g, u, K, F, U, SECOND_DTYPE, False, BLOCK, WHOLE)
            held = floors(v.to(tl.float32))
        v = second_moment(table, numbers, n, i, begin, inside, g, u, K, F, U, SECOND_DTYPE, True, BLOCK, WHOLE)
        r = tl.div_rn(1.0, denominator(numbers, v.to(tl.float32), u, t, eps, K, U))
        if not WHOLE:
            r = tl.where(inside, r, 0.0)
        tl.store(partial + (K + u) * n_blocks + b, tl.sum(r))
        weighted = r * g
        for j in tl.static_range(K):
            if ((SECOND >> (16 * j)) & 0xFFFF) == u:
                m, _ = first_moment(
                    table, numbers, n, i, begin, inside, g, t, held, v.to(tl.float32), j,
                    (FIRST >> (16 * j)) & 0xFFFF, K, F, U, FIRST_DTYPE, True, STOCHASTIC, BLOCK, WHOLE,
                )  # fmt: skip
                tl.store(partial + j * n_blocks + b, tl.sum(weighted * m.to(tl.float32)))


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
    BLOCK: tl.constexpr,
) -> None:
    """Update a block's moments, and take its sums of g r m_j and of r.

    Args:
        partial: (K + U, n_blocks) float32.
        SECOND: 16 bits for each candidate, the lowest for the first, that say which second moment it uses.
    """
    b = tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    aligned = tl.load(table + (3 + F + U) * n + i)
    if (aligned != 0) & (count == BLOCK):
        observe_block(
            table, numbers, partial, n, n_blocks, b, i, begin, count, eps, l2,
            K, F, U, FIRST, SECOND, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, STOCHASTIC, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        observe_block(
            table, numbers, partial, n, n_blocks, b, i, begin, count, eps, l2,
            K, F, U, FIRST, SECOND, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, STOCHASTIC, BLOCK, WHOLE=False,
        )  # fmt: skip


# ---------------------------------------------------------------- the second pass


@triton.jit
def reset(
    table: tl.tensor,
    numbers: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    soft_reset: tl.tensor,
    second_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    U: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    RESET_SECOND: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Scale a block of all buffers of fragment ``i``."""
    if tl.uint8 == FIRST_DTYPE:
        for j in tl.static_range(K):
            place = tl.load(numbers + 4 * K + j).to(tl.int64)
            if place < F:
                u = tl.load(numbers + 3 * K + j).to(tl.int64)
                v = read(elements(table, n, 2 + F + u, i, begin, SECOND_DTYPE, BLOCK, WHOLE), inside, WHOLE)
                after = (v.to(tl.float32) * second_reset).to(SECOND_DTYPE).to(tl.float32)
                at = elements(table, n, 2 + place, i, begin, FIRST_DTYPE, BLOCK, WHOLE)
                up = lift(numbers + 5 * K + 2 * U + 1, j)
                m = decode(read(at, inside, WHOLE), floors(v.to(tl.float32)) + up) * soft_reset
                half_a_step = tl.full((BLOCK,), 1 << 18, tl.uint32)
                write(at, encode(m, floors(after) + up, half_a_step), inside, WHOLE)
    else:
        for c in tl.static_range(F):
            scale_buffer(table, n, 2 + c, i, begin, inside, soft_reset, FIRST_DTYPE, BLOCK, WHOLE)
    if RESET_SECOND:
        for c in tl.static_range(U):
            scale_buffer(table, n, 2 + F + c, i, begin, inside, second_reset, SECOND_DTYPE, BLOCK, WHOLE)


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
    l2: tl.tensor,
    decay: tl.tensor,
    soft_reset: tl.tensor,
    second_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    U: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    RESET_SECOND: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``apply`` for a block of fragment ``i``; lr is float64."""
    inside = tl.arange(0, BLOCK) < count
    at = elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE)
    p = read(at, inside, WHOLE).to(tl.float32)
    u = tl.load(numbers + 3 * K + j).to(tl.int64)
    of_v = elements(table, n, 2 + F + u, i, begin, SECOND_DTYPE, BLOCK, WHOLE)
    if tl.uint8 == FIRST_DTYPE:
        v = read(of_v, inside, WHOLE).to(tl.float32)
        place = tl.load(numbers + 4 * K + j).to(tl.int64)
        if place == F:
            m = filtered(table, n, i, begin, inside, l2, 2 + F + U, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
        else:
            code = read(elements(table, n, 2 + place, i, begin, FIRST_DTYPE, BLOCK, WHOLE), inside, WHOLE)
            m = decode(code, floors(v) + lift(numbers + 5 * K + 2 * U + 1, j)) + v * 0.0
    else:
        m = picked_moment(
            table, numbers + 4 * K, j, n, i, begin, inside, l2, 1.0,
            K, F, 2 + F + U, VALUE, FIRST_DTYPE, L2, MAXIMIZE, BLOCK, WHOLE,
        )  # fmt: skip
        v = read(of_v, inside, WHOLE).to(tl.float32)
    t = steps_of(table, n, i)
    rate = lr * tl.load(numbers + 2 * K + j)
    rate = (rate / bias_correction(tl.load(numbers + K + j), t)).to(tl.float32)
    keep = (1.0 - lr * decay).to(tl.float32)
    p = p * keep - rate * tl.div_rn(m, denominator(numbers, v, u, t, eps, K, U))
    write(at, p.to(VALUE), inside, WHOLE)
    if due:
        reset(
            table, numbers, n, i, begin, inside, soft_reset, second_reset,
            K, F, U, FIRST_DTYPE, SECOND_DTYPE, RESET_SECOND, BLOCK, WHOLE,
        )  # fmt: skip


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
    l2: tl.tensor,
    decay: tl.tensor,
    soft_reset: tl.tensor,
    second_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    U: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
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
    aligned = tl.load(table + (3 + F + U) * n + i)
    if (aligned != 0) & (count == BLOCK):
        apply_block(
            table, numbers, j, due, rate, n, i, begin, count, eps, l2, decay, soft_reset, second_reset,
            K, F, U, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, RESET_SECOND, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        apply_block(
            table, numbers, j, due, rate, n, i, begin, count, eps, l2, decay, soft_reset, second_reset,
            K, F, U, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, RESET_SECOND, BLOCK, WHOLE=False,
        )  # fmt: skip
