"""Adai's fused CUDA kernels, in Triton (``triton_common.py`` says what they read).

Its buffers are K first moments, K products of inertia and a second moment, all in float32. Its numbers: K beta0, K
factors on the learning rate; beta2 and its logarithm. The mean of all second moments is read on the device, where the
first round has left it.
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
    scale_buffer,
    steps_of,
    tick,
    write,
)

__all__ = ["add_up", "move", "observe", "squares", "tick"]

LEAST = tl.constexpr(1.1754943508222875e-38)
"""The smallest normal float32: what second moments are divided by is not below it."""

# ---------------------------------------------------------------- the first round


@triton.jit
def squares_block(
    table: tl.tensor,
    numbers: tl.tensor,
    partial: tl.tensor,
    n: tl.tensor,
    b: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    count: tl.tensor,
    l2: tl.tensor,
    K: tl.constexpr,
    VALUE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``squares`` for block ``b``."""
    inside = tl.arange(0, BLOCK) < count
    beta2 = tl.load(numbers + 2 * K)
    g = filtered(table, n, i, begin, inside, l2, 3 + 2 * K, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
    at = elements(table, n, 2 + 2 * K, i, begin, tl.float32, BLOCK, WHOLE)
    v = read(at, inside, WHOLE) * beta2.to(tl.float32) + (1 - beta2).to(tl.float32) * g * g
    write(at, v, inside, WHOLE)
    if not WHOLE:
        v = tl.where(inside, v, 0.0)
    correction = bias_correction(tl.load(numbers + 2 * K + 1), steps_of(table, n, i))
    tl.store(partial + b, tl.sum(v.to(tl.float64)) / correction)


@triton.jit(do_not_specialize=["n"])
def squares(
    table: tl.tensor,
    blocks: tl.tensor,
    numbers: tl.tensor,
    partial: tl.tensor,
    n: tl.tensor,
    l2: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Update a block's second moments, and take the sum of the bias-corrected ones.

    Args:
        partial: n_blocks float64: the mean enters every element, whose bits must not depend on how parameters are cut.
    """
    b = tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    aligned = tl.load(table + (4 + 2 * K) * n + i)
    if (aligned != 0) & (count == BLOCK):
        squares_block(table, numbers, partial, n, b, i, begin, count, l2, K, VALUE, L2, MAXIMIZE, BLOCK, WHOLE=True)
    else:
        squares_block(table, numbers, partial, n, b, i, begin, count, l2, K, VALUE, L2, MAXIMIZE, BLOCK, WHOLE=False)


# ---------------------------------------------------------------- buffers


@triton.jit
def power(x: tl.tensor, exponent: tl.tensor) -> tl.tensor:
    """Return x^exponent for x >= 0, float32; in float64, since a logarithm's error grows with its size."""
    return tl.exp(tl.log(x.to(tl.float64)) * tl.cast(exponent, tl.float64)).to(tl.float32)


@triton.jit
def ratios(
    table: tl.tensor,
    numbers: tl.tensor,
    mean: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    dampening: tl.tensor,
    K: tl.constexpr,
    DAMPENED: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Return the ratios of the second moments to their mean over the model, to the power of 1 / (3 - 2 d)."""
    v = read(elements(table, n, 2 + 2 * K, i, begin, tl.float32, BLOCK, WHOLE), inside, WHOLE)
    total, elements_of_all = tl.load(mean), tl.load(mean + 1)
    average = tl.where(total == 0, 1.0, total / elements_of_all)
    correction = bias_correction(tl.load(numbers + 2 * K + 1), steps_of(table, n, i))
    scale = correction * average
    ratio = tl.div_rn(v, tl.where(scale < LEAST, LEAST, scale).to(tl.float32))
    if not DAMPENED:
        ratio = power(ratio, 1 / (3 - 2 * dampening))
    return ratio


@triton.jit
def update(
    table: tl.tensor,
    numbers: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    g: tl.tensor,
    ratio: tl.tensor,
    least: tl.tensor,
    dampening: tl.tensor,
    j: tl.constexpr,
    K: tl.constexpr,
    DAMPENED: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Update the buffers of candidate ``j``, and return its moments, its products and 1 - beta1."""
    rest = tl.load(numbers + j).to(tl.float32) * ratio
    rest = tl.where(rest > 1.0, 1.0, rest)
    rest = tl.where(rest < least, least, rest)
    weight = rest
    if not DAMPENED:
        weight = power(rest, dampening)
    first = elements(table, n, 2 + j, i, begin, tl.float32, BLOCK, WHOLE)
    product = elements(table, n, 2 + K + j, i, begin, tl.float32, BLOCK, WHOLE)
    m = read(first, inside, WHOLE) * (1.0 - rest) + weight * g
    P = read(product, inside, WHOLE) * (1.0 - rest)
    write(first, m, inside, WHOLE)
    write(product, P, inside, WHOLE)
    return m, P, rest


# ---------------------------------------------------------------- the second round


@triton.jit
def observe_block(
    table: tl.tensor,
    numbers: tl.tensor,
    partial: tl.tensor,
    mean: tl.tensor,
    n: tl.tensor,
    n_blocks: tl.tensor,
    b: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    count: tl.tensor,
    l2: tl.tensor,
    least: tl.tensor,
    dampening: tl.tensor,
    K: tl.constexpr,
    VALUE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    DAMPENED: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``observe`` for block ``b``."""
    inside = tl.arange(0, BLOCK) < count
    g = filtered(table, n, i, begin, inside, l2, 3 + 2 * K, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
    ratio = ratios(table, numbers, mean, n, i, begin, inside, dampening, K, DAMPENED, BLOCK, WHOLE)
    for j in tl.static_range(K):
        m, _, rest = update(
            table, numbers, n, i, begin, inside, g, ratio, least, dampening, j, K, DAMPENED, BLOCK, WHOLE
        )
        norm = tl.div_rn(rest, 2.0 - rest)
        if not DAMPENED:
            norm = tl.div_rn(power(rest, 2 * dampening - 1), 2.0 - rest)
        if not WHOLE:
            norm = tl.where(inside, norm, 0.0)
        tl.store(partial + j * n_blocks + b, tl.sum(g * m))
        tl.store(partial + (K + j) * n_blocks + b, tl.sum(norm))


@triton.jit(do_not_specialize=["n", "n_blocks"])
def observe(
    table: tl.tensor,
    blocks: tl.tensor,
    numbers: tl.tensor,
    partial: tl.tensor,
    mean: tl.tensor,
    n: tl.tensor,
    n_blocks: tl.tensor,
    l2: tl.tensor,
    least: tl.tensor,
    dampening: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    DAMPENED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Update a block's moments and products, and take its sums of g m_j and of the filters' squared norms.

    Args:
        partial: (2 K, n_blocks) float32.
        mean: float64, the sum of all second moments, and their number.
    """
    b = tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    aligned = tl.load(table + (4 + 2 * K) * n + i)
    if (aligned != 0) & (count == BLOCK):
        observe_block(
            table, numbers, partial, mean, n, n_blocks, b, i, begin, count, l2, least, dampening,
            K, VALUE, L2, MAXIMIZE, DAMPENED, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        observe_block(
            table, numbers, partial, mean, n, n_blocks, b, i, begin, count, l2, least, dampening,
            K, VALUE, L2, MAXIMIZE, DAMPENED, BLOCK, WHOLE=False,
        )  # fmt: skip


# ---------------------------------------------------------------- the step


@triton.jit
def move_block(
    table: tl.tensor,
    numbers: tl.tensor,
    weights: tl.tensor,
    weight_stride: tl.tensor,
    due: tl.tensor,
    lr: tl.tensor,
    mean: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    count: tl.tensor,
    l2: tl.tensor,
    least: tl.tensor,
    dampening: tl.tensor,
    decay: tl.tensor,
    soft_reset: tl.tensor,
    K: tl.constexpr,
    VALUE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    DAMPENED: tl.constexpr,
    UPDATE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Do ``move`` for a block of fragment ``i``; lr is float64."""
    inside = tl.arange(0, BLOCK) < count
    at = elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE)
    p = read(at, inside, WHOLE).to(tl.float32)
    if UPDATE:
        g = filtered(table, n, i, begin, inside, l2, 3 + 2 * K, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
        ratio = ratios(table, numbers, mean, n, i, begin, inside, dampening, K, DAMPENED, BLOCK, WHOLE)
    p = p * (1.0 - lr * decay).to(tl.float32)
    for j in tl.static_range(K):
        weight = tl.load(weights + j * weight_stride)
        rate = (lr * tl.load(numbers + K + j) * weight).to(tl.float32)
        if UPDATE:
            m, P, _ = update(
                table, numbers, n, i, begin, inside, g, ratio, least, dampening, j, K, DAMPENED, BLOCK, WHOLE
            )
            if weight != 0:
                p = p - rate * tl.div_rn(m, 1.0 - P)
        elif weight != 0:  # else they need not be read
            m = read(elements(table, n, 2 + j, i, begin, tl.float32, BLOCK, WHOLE), inside, WHOLE)
            P = read(elements(table, n, 2 + K + j, i, begin, tl.float32, BLOCK, WHOLE), inside, WHOLE)
            p = p - rate * tl.div_rn(m, 1.0 - P)
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
    mean: tl.tensor,
    n: tl.tensor,
    l2: tl.tensor,
    least: tl.tensor,
    dampening: tl.tensor,
    decay: tl.tensor,
    soft_reset: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    DAMPENED: tl.constexpr,
    UPDATE: tl.constexpr,
    LR_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Step a block by the weighted sum of all candidates, then scale its moments if a reset is due.

    Args:
        weights: (n, K) float64, with these strides; that of a candidate picked is 1.
        resets: n bool, this many elements apart.
        lr: the learning rate, or a pointer to it.
        mean: as ``observe`` reads it.
        UPDATE: do what ``observe`` does, too, but for the sums.
    """
    # the blocks that the pass before touched last are still in the cache
    b = tl.num_programs(0) - 1 - tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    rate = learning_rate(lr, LR_ON_DEVICE)
    mine = weights + i * row_stride
    due = tl.load(resets + i * reset_stride)
    aligned = tl.load(table + (4 + 2 * K) * n + i)
    if (aligned != 0) & (count == BLOCK):
        move_block(
            table, numbers, mine, weight_stride, due, rate, mean, n, i, begin, count, l2, least, dampening, decay,
            soft_reset, K, VALUE, L2, MAXIMIZE, DAMPENED, UPDATE, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        move_block(
            table, numbers, mine, weight_stride, due, rate, mean, n, i, begin, count, l2, least, dampening, decay,
            soft_reset, K, VALUE, L2, MAXIMIZE, DAMPENED, UPDATE, BLOCK, WHOLE=False,
        )  # fmt: skip
