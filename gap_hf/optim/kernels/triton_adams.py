"""Adams's fused CUDA kernels, in Triton (``triton_common.py`` and ``triton_adams_power.py`` say what they read).

Its buffers are K first moments, a second moment and u, all in float32. Its numbers: K beta1, K factors on the learning
rate, K logarithms of beta1; beta2 and its logarithm.
"""

import triton
import triton.language as tl

from .triton_adams_power import left, lengths, right, unit
from .triton_common import (
    add_up,
    bias_correction,
    elements,
    filtered,
    learning_rate,
    place,
    read,
    scale_buffer,
    steps_of,
    tick,
    write,
)

__all__ = ["add_up", "left", "lengths", "move", "observe", "right", "tick", "unit"]

# ---------------------------------------------------------------- the elements


@triton.jit
def angle(m: tl.tensor, s: tl.tensor) -> tl.tensor:
    """Return atan2(m, s) for s >= 0, as ``angle`` in ``c/adams.h`` does."""
    a = tl.abs(m)
    low, high = tl.where(s < a, s, a), tl.where(s < a, a, s)
    x = tl.div_rn(low, tl.where(high == 0, 1.0, high))
    x = tl.where((low == high) & (high > 0), 1.0, x)
    y = x * x
    r = -0.00170117011 * y + 0.0104876496
    r = r * y - 0.030351866
    r = r * y + 0.057089556
    r = r * y - 0.0834972486
    r = r * y + 0.109323412
    r = r * y - 0.142600164
    r = r * y + 0.199980751
    r = r * y - 0.333332777
    r = (r * y + 1.0) * x
    r = tl.where(s < a, 1.57079633 - r, r)
    return tl.where(m < 0, -r, r)


@triton.jit
def root(
    table: tl.tensor,
    numbers: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    g: tl.tensor,
    t: tl.tensor,
    K: tl.constexpr,
    UPDATE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Return the root of the second moment, corrected for its bias; with UPDATE, after an update by ``g``."""
    at = elements(table, n, 2 + K, i, begin, tl.float32, BLOCK, WHOLE)
    v = read(at, inside, WHOLE)
    if UPDATE:
        beta2 = tl.load(numbers + 3 * K)
        v = v * beta2.to(tl.float32) + (1 - beta2).to(tl.float32) * g * g
        write(at, v, inside, WHOLE)
    return tl.sqrt_rn(v * (1.0 / bias_correction(tl.load(numbers + 3 * K + 1), t)).to(tl.float32))


@triton.jit
def moment(
    table: tl.tensor,
    numbers: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    g: tl.tensor,
    t: tl.tensor,
    j: tl.constexpr,
    K: tl.constexpr,
    CORRECTED: tl.constexpr,
    UPDATE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Return the moment of candidate ``j`` of which the angle is taken; with UPDATE, after an update by ``g``."""
    at = elements(table, n, 2 + j, i, begin, tl.float32, BLOCK, WHOLE)
    m = read(at, inside, WHOLE)
    if UPDATE:
        m = m + (1 - tl.load(numbers + j)).to(tl.float32) * (g - m)
        write(at, m, inside, WHOLE)
    if CORRECTED:
        m = m * (1.0 / bias_correction(tl.load(numbers + 2 * K + j), t)).to(tl.float32)
    return m


# ---------------------------------------------------------------- the pass that scores


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
    K: tl.constexpr,
    VALUE: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    CORRECTED: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``observe`` for block ``b``."""
    inside = tl.arange(0, BLOCK) < count
    t = steps_of(table, n, i)
    g = filtered(table, n, i, begin, inside, 0.0, 4 + K, VALUE, False, MAXIMIZE, BLOCK, WHOLE)
    s = root(table, numbers, n, i, begin, inside, g, t, K, True, BLOCK, WHOLE)
    live = (s > 0) & inside
    tl.store(partial + 2 * K * n_blocks + b, tl.sum(live.to(tl.float32)))
    for j in tl.static_range(K):
        m = moment(table, numbers, n, i, begin, inside, g, t, j, K, CORRECTED, True, BLOCK, WHOLE)
        theta = angle(m, s)
        slope = tl.where(m == 0, tl.div_rn(1.0, tl.where(live, s, 1.0)), tl.div_rn(theta, tl.where(m == 0, 1.0, m)))
        tl.store(partial + j * n_blocks + b, tl.sum(g * theta))
        tl.store(partial + (K + j) * n_blocks + b, tl.sum(tl.where(live, slope, 0.0)))


@triton.jit(do_not_specialize=["n", "n_blocks"])
def observe(
    table: tl.tensor,
    blocks: tl.tensor,
    numbers: tl.tensor,
    partial: tl.tensor,
    n: tl.tensor,
    n_blocks: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    CORRECTED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Update a block's moments, and take its sums of g theta_j, of theta_j / m_j, and of those that had a gradient.

    Args:
        partial: (2 K + 1, n_blocks) float32.
    """
    b = tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    aligned = tl.load(table + (5 + K) * n + i)
    if (aligned != 0) & (count == BLOCK):
        observe_block(
            table, numbers, partial, n, n_blocks, b, i, begin, count,
            K, VALUE, MAXIMIZE, CORRECTED, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        observe_block(
            table, numbers, partial, n, n_blocks, b, i, begin, count,
            K, VALUE, MAXIMIZE, CORRECTED, BLOCK, WHOLE=False,
        )  # fmt: skip


# ---------------------------------------------------------------- the step


@triton.jit
def spectral_decay(
    table: tl.tensor,
    about: tl.tensor,
    boxes: tl.tensor,
    v: tl.tensor,
    Wv: tl.tensor,
    norm: tl.tensor,
    rate: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    p: tl.tensor,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Write the new u, and return ``p`` without ``rate`` times the largest singular value; that of zeros stays."""
    mine = about + 8 * i
    R, C, start = tl.load(mine), tl.load(mine + 1), tl.load(mine + 6)
    e = begin + tl.arange(0, BLOCK)
    if start >= 0:  # a stretch of the flattened parameter
        row, column = (start + e) // C, (start + e) % C
        matrix = row // R
        column += matrix * C
    else:  # boxes of one size, one for each matrix
        b = tl.load(mine + 5)
        height, width = tl.load(boxes + 6 * b + 1), tl.load(boxes + 6 * b + 2)
        b += tl.where(inside, e // (height * width), 0)
        row = tl.load(boxes + 6 * b + 3) + e % (height * width) // width
        column = tl.load(boxes + 6 * b + 4) + e % width
        matrix = tl.load(boxes + 6 * b + 5)
    length = tl.load(norm + tl.load(mine + 4) + matrix, mask=inside, other=0.0)
    of_row = tl.load(Wv + tl.load(mine + 3) + row, mask=inside, other=0.0)
    of_column = tl.load(v + tl.load(mine + 2) + column, mask=inside, other=0.0)
    at = elements(table, n, 3 + K, i, begin, tl.float32, BLOCK, WHOLE)
    moved = length > 0
    u = (of_row / tl.where(moved, length, 1.0)).to(tl.float32)
    write(at, tl.where(moved, u, read(at, inside, WHOLE)), inside, WHOLE)
    part = (rate * tl.sqrt(R.to(tl.float64)) * of_row).to(tl.float32)
    return p - tl.where(moved, part * of_column.to(tl.float32), 0.0)


@triton.jit
def move_block(
    table: tl.tensor,
    numbers: tl.tensor,
    weights: tl.tensor,
    weight_stride: tl.tensor,
    due: tl.tensor,
    lr: tl.tensor,
    about: tl.tensor,
    boxes: tl.tensor,
    v: tl.tensor,
    Wv: tl.tensor,
    norm: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    count: tl.tensor,
    decay: tl.tensor,
    vector_decay: tl.tensor,
    soft_reset: tl.tensor,
    K: tl.constexpr,
    VALUE: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    CORRECTED: tl.constexpr,
    UPDATE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``move`` for a block of fragment ``i``; lr is float64."""
    inside = tl.arange(0, BLOCK) < count
    t = steps_of(table, n, i)
    at = elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE)
    p = read(at, inside, WHOLE).to(tl.float32)
    g = p
    if UPDATE:
        g = filtered(table, n, i, begin, inside, 0.0, 4 + K, VALUE, False, MAXIMIZE, BLOCK, WHOLE)
    s = root(table, numbers, n, i, begin, inside, g, t, K, UPDATE, BLOCK, WHOLE)
    if tl.load(about + 8 * i + 5) >= 0:
        p = spectral_decay(table, about, boxes, v, Wv, norm, lr * decay, n, i, begin, inside, p, K, BLOCK, WHOLE)
    else:
        p = p * (1.0 - lr * vector_decay).to(tl.float32)
    for j in tl.static_range(K):
        weight = tl.load(weights + j * weight_stride)
        rate = lr * tl.load(numbers + K + j) * weight
        if not CORRECTED:
            rate = rate / bias_correction(tl.load(numbers + 2 * K + j), t)
        if UPDATE:
            m = moment(table, numbers, n, i, begin, inside, g, t, j, K, CORRECTED, True, BLOCK, WHOLE)
            p = p - rate.to(tl.float32) * angle(m, s)
        elif weight != 0:  # else it need not be read
            m = moment(table, numbers, n, i, begin, inside, g, t, j, K, CORRECTED, False, BLOCK, WHOLE)
            p = p - rate.to(tl.float32) * angle(m, s)
    write(at, p.to(VALUE), inside, WHOLE)
    if due:
        for c in tl.static_range(K):
            scale_buffer(table, n, 2 + c, i, begin, inside, soft_reset, tl.float32, BLOCK, WHOLE)


@triton.jit(do_not_specialize=["weights", "row_stride", "weight_stride", "resets", "reset_stride", "lr", "n"])
def move(
    table: tl.tensor,
    blocks: tl.tensor,
    numbers: tl.tensor,
    weights: tl.tensor,
    row_stride: tl.tensor,
    weight_stride: tl.tensor,
    resets: tl.tensor,
    reset_stride: tl.tensor,
    lr: tl.tensor,
    about: tl.tensor,
    boxes: tl.tensor,
    v: tl.tensor,
    Wv: tl.tensor,
    norm: tl.tensor,
    n: tl.tensor,
    decay: tl.tensor,
    vector_decay: tl.tensor,
    soft_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    CORRECTED: tl.constexpr,
    UPDATE: tl.constexpr,
    LR_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Decay a block, step it by the weighted sum of all candidates, then scale its moments if a reset is due.

    Args:
        weights: (n, K) float64, with these strides; that of a candidate picked is 1.
        resets: n bool, this many elements apart.
        lr: the learning rate, or a pointer to it.
        v: float64, of length 1 for each matrix.
        Wv: the same for W v, of the lengths ``norm``.
        UPDATE: do what ``observe`` does, too, but for the sums.
    """
    # the blocks that the pass before touched last are still in the cache
    b = tl.num_programs(0) - 1 - tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    rate = learning_rate(lr, LR_ON_DEVICE)
    mine = weights + i * row_stride
    due = tl.load(resets + i * reset_stride)
    aligned = tl.load(table + (5 + K) * n + i)
    if (aligned != 0) & (count == BLOCK):
        move_block(
            table, numbers, mine, weight_stride, due, rate, about, boxes, v, Wv, norm, n, i, begin, count, decay,
            vector_decay, soft_reset, K, VALUE, MAXIMIZE, CORRECTED, UPDATE, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        move_block(
            table, numbers, mine, weight_stride, due, rate, about, boxes, v, Wv, norm, n, i, begin, count, decay,
            vector_decay, soft_reset, K, VALUE, MAXIMIZE, CORRECTED, UPDATE, BLOCK, WHOLE=False,
        )  # fmt: skip
