"""The fused CUDA kernels, in Triton: ``fused_cuda.py`` imports them where they are needed, and launches them.

Fragments are cut into blocks of up to BLOCK elements, one program each; all fragments of a work share each launch. What
the programs find on the device, for n fragments, K candidates and U second moments (U is 0 in the SGDM family):

    table     int64: columns of n addresses: value, step, K first moments, U second moments, gradient; then n flags,
              whether all of a fragment's arrays begin at a multiple of 16 bytes; then the addresses of the counters
    blocks    int64: n element counts; n + 1 numbers, each fragment's first block; then for each block its fragment
    numbers   float64: K beta1 or momenta, their K logarithms, K factors on the learning rate, K second moments that
              the candidates use; U beta2, their U logarithms

Semantics and formulas are ``fused_cpu.c``'s: everything is computed in float32 except what is made of the numbers and
the count of steps, which is float64 until it meets an element.
"""

import triton
import triton.language as tl

# ---------------------------------------------------------------- numbers in memory


@triton.jit
def hash32(x: tl.tensor) -> tl.tensor:
    """``hash32`` of rounding.py, on uint32."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def round_stochastically(exact: tl.tensor, grad: tl.tensor, old: tl.tensor, salt: tl.tensor) -> tl.tensor:
    """``round_stochastically`` of rounding.py: float32, float32 and bfloat16 to bfloat16; salt uint32."""
    old_bits = old.to(tl.uint16, bitcast=True).to(tl.uint32)
    noise = hash32((grad.to(tl.uint32, bitcast=True) ^ old_bits) + salt) & 0xFFFF
    bits = exact.to(tl.uint32, bitcast=True)
    finite = (bits & 0x7F800000) != 0x7F800000
    rounded = ((bits + noise) & 0xFFFF0000).to(tl.float32, bitcast=True)
    return tl.where(finite, rounded, exact).to(tl.bfloat16)


@triton.jit
def elements(
    table: tl.tensor,
    n: tl.tensor,
    column: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Where the elements from ``begin`` of fragment ``i``'s array in ``column`` are."""
    start = tl.load(table + column * n + i).to(tl.pointer_type(DTYPE))
    if WHOLE:  # so that four or eight elements travel at once
        start = tl.multiple_of(start, 16)
    return start + begin + tl.arange(0, BLOCK)


@triton.jit
def read(at: tl.tensor, inside: tl.tensor, WHOLE: tl.constexpr) -> tl.tensor:
    """The elements as they are stored, 0 outside. A whole block has no mask: a mask would split its loads."""
    if WHOLE:
        stored = tl.load(at)
    else:
        stored = tl.load(at, mask=inside, other=0.0)
    return stored


@triton.jit
def write(at: tl.tensor, stored: tl.tensor, inside: tl.tensor, WHOLE: tl.constexpr) -> None:
    """What ``read`` reads."""
    if WHOLE:
        tl.store(at, stored)
    else:
        tl.store(at, stored, mask=inside)


@triton.jit
def place(blocks: tl.tensor, n: tl.tensor, b: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """The fragment of block ``b``, the block's first element in it, and how many there are, int32."""
    i = tl.load(blocks + 2 * n + 1 + b)
    begin = (b - tl.load(blocks + n + i)) * BLOCK
    return i, begin, tl.minimum(tl.load(blocks + i) - begin, BLOCK).to(tl.int32)


@triton.jit
def steps_of(table: tl.tensor, n: tl.tensor, i: tl.tensor) -> tl.tensor:
    """The count of steps of fragment ``i``, float64."""
    return tl.load(tl.load(table + n + i).to(tl.pointer_type(tl.float64)))


@triton.jit
def bias_correction(log_beta: tl.tensor, t: tl.tensor) -> tl.tensor:
    """1 - beta^t, float64."""
    return 1.0 - tl.exp(t * log_beta)


@triton.jit
def filtered(
    table: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    l2: tl.tensor,
    COLUMN: tl.constexpr,
    VALUE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """The gradient that enters the filter, float32; the gradients are in ``COLUMN``."""
    g = read(elements(table, n, COLUMN, i, begin, VALUE, BLOCK, WHOLE), inside, WHOLE).to(tl.float32)
    if MAXIMIZE:
        g = -g
    if L2:
        g += l2 * read(elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE), inside, WHOLE).to(tl.float32)
    return g


# ---------------------------------------------------------------- the counts of steps


@triton.jit(do_not_specialize=["at", "count"])
def tick(table: tl.tensor, at: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr) -> None:
    """One more step for each of the ``count`` counters whose addresses begin at ``table[at]``."""
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    steps = tl.load(table + at + c, mask=c < count, other=0).to(tl.pointer_type(tl.float64))
    tl.store(steps, tl.load(steps, mask=c < count, other=0.0) + 1.0, mask=c < count)


# ---------------------------------------------------------------- the first pass


@triton.jit
def first_moment(
    old: tl.tensor,
    g: tl.tensor,
    t: tl.tensor,
    beta: tl.tensor,
    rest: tl.tensor,
    j: tl.constexpr,
    ADAM: tl.constexpr,
    STOCHASTIC: tl.constexpr,
) -> tl.tensor:
    """First moment ``j``, as it was stored, moved towards ``g``: as it is to be stored.

    Args:
        beta: float64, beta1 or the momentum.
        rest: 1 - dampening.
    """
    m = old.to(tl.float32)
    if ADAM:  # in the form that torch.lerp takes: from the nearer end
        weight = (1.0 - beta).to(tl.float32)
        near = weight < 0.5
        m = tl.where(near, m, g) + tl.where(near, weight, weight - 1.0) * (g - m)
    else:
        m = tl.where(t == 1.0, g, m * beta.to(tl.float32) + rest * g)
    if STOCHASTIC:
        salt = t.to(tl.uint32) * 0x9E3779B9 + ((j * 0x85EBCA6B) & 0xFFFFFFFF)
        new = round_stochastically(m, g, old, salt)
    else:
        new = m.to(old.dtype)
    return new


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
    rest: tl.tensor,
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
    """``observe`` for block ``b``."""
    inside = tl.arange(0, BLOCK) < count
    t = steps_of(table, n, i)
    g = filtered(table, n, i, begin, inside, l2, 2 + K + U, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
    # the SGDM family goes once through the outer loop, without second moment
    for u in tl.static_range(U if U > 0 else 1):
        weighted = g
        if U > 0:
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
            if U == 0 or ((SECOND >> (8 * j)) & 255) == u:
                at = elements(table, n, 2 + j, i, begin, FIRST_DTYPE, BLOCK, WHOLE)
                m = first_moment(
                    read(at, inside, WHOLE), g, t, tl.load(numbers + j), rest, j, ADAM=U > 0, STOCHASTIC=STOCHASTIC
                )
                write(at, m, inside, WHOLE)
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
    rest: tl.tensor,
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
    """Update a block's moments, and take its sums of g r m_j (or g m_j) and of r.

    Args:
        partial: (K + U, n_blocks) float32.
        rest: 1 - dampening.
        SECOND: a byte for each candidate, the lowest for the first: which second moment it uses.
    """
    b = tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    aligned = tl.load(table + (3 + K + U) * n + i)
    if (aligned != 0) & (count == BLOCK):
        observe_block(
            table, numbers, partial, n, n_blocks, b, i, begin, count, eps, l2, rest,
            K, U, SECOND, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, STOCHASTIC, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        observe_block(
            table, numbers, partial, n, n_blocks, b, i, begin, count, eps, l2, rest,
            K, U, SECOND, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, STOCHASTIC, BLOCK, WHOLE=False,
        )  # fmt: skip


@triton.jit(do_not_specialize=["n", "n_blocks"])
def add_up(
    blocks: tl.tensor, partial: tl.tensor, sums: tl.tensor, n: tl.tensor, n_blocks: tl.tensor, CHUNK: tl.constexpr
) -> None:
    """``sums``, (n, S) float64, from ``partial``, (S, n_blocks): always in the same order. One program per sum."""
    i, s = tl.program_id(0), tl.program_id(1)
    first, end = tl.load(blocks + n + i), tl.load(blocks + n + i + 1)
    total = tl.zeros((CHUNK,), tl.float64)
    for low in range(first, end, CHUNK):
        b = low + tl.arange(0, CHUNK)
        total += tl.load(partial + s * n_blocks + b, mask=b < end, other=0.0).to(tl.float64)
    tl.store(sums + i * tl.num_programs(1) + s, tl.sum(total))


# ---------------------------------------------------------------- the second pass


@triton.jit
def scale_buffer(
    table: tl.tensor,
    n: tl.tensor,
    column: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    factor: tl.tensor,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Scale a block of the buffer in ``column``."""
    at = elements(table, n, column, i, begin, DTYPE, BLOCK, WHOLE)
    write(at, (read(at, inside, WHOLE).to(tl.float32) * factor).to(DTYPE), inside, WHOLE)


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
    U: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    NESTEROV: tl.constexpr,
    RESET_SECOND: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """``apply`` for a block of fragment ``i``; lr is float64."""
    inside = tl.arange(0, BLOCK) < count
    at = elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE)
    p = read(at, inside, WHOLE).to(tl.float32)
    m = read(elements(table, n, 2 + j, i, begin, FIRST_DTYPE, BLOCK, WHOLE), inside, WHOLE).to(tl.float32)
    rate = lr * tl.load(numbers + 2 * K + j)
    if U > 0:
        t = steps_of(table, n, i)
        u = tl.load(numbers + 3 * K + j).to(tl.int64)
        v = read(elements(table, n, 2 + K + u, i, begin, SECOND_DTYPE, BLOCK, WHOLE), inside, WHOLE).to(tl.float32)
        rate = (rate / bias_correction(tl.load(numbers + K + j), t)).to(tl.float32)
        scale = (1.0 / tl.sqrt(bias_correction(tl.load(numbers + 4 * K + U + u), t))).to(tl.float32)
        keep = (1.0 - lr * decay).to(tl.float32)
        p = p * keep - rate * tl.div_rn(m, tl.sqrt_rn(v) * scale + eps)
    else:
        if NESTEROV:
            g = filtered(table, n, i, begin, inside, l2, 2 + K + U, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
            m = g + tl.load(numbers + j).to(tl.float32) * m
        p = p - rate.to(tl.float32) * m
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
    l2: tl.tensor,
    decay: tl.tensor,
    soft_reset: tl.tensor,
    second_reset: tl.tensor,
    K: tl.constexpr,
    U: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    SECOND_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    NESTEROV: tl.constexpr,
    RESET_SECOND: tl.constexpr,
    LR_ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Step a block by its fragment's choice, then scale its buffers, if a reset is due.

    Args:
        choices: n, int64, this many apart.
        resets: n, bool, likewise.
        lr: a number, or where to find it.
    """
    # the blocks that the first pass touched last are still in the cache
    b = tl.num_programs(0) - 1 - tl.program_id(0)
    i, begin, count = place(blocks, n, b, BLOCK)
    if LR_ON_DEVICE:
        rate = tl.load(lr).to(tl.float64)
    else:
        rate = tl.cast(lr, tl.float64)
    j = tl.load(choices + i * choice_stride)
    due = tl.load(resets + i * reset_stride)
    aligned = tl.load(table + (3 + K + U) * n + i)
    if (aligned != 0) & (count == BLOCK):
        apply_block(
            table, numbers, j, due, rate, n, i, begin, count, eps, l2, decay, soft_reset, second_reset,
            K, U, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, NESTEROV, RESET_SECOND, BLOCK, WHOLE=True,
        )  # fmt: skip
    else:
        apply_block(
            table, numbers, j, due, rate, n, i, begin, count, eps, l2, decay, soft_reset, second_reset,
            K, U, VALUE, FIRST_DTYPE, SECOND_DTYPE, L2, MAXIMIZE, NESTEROV, RESET_SECOND, BLOCK, WHOLE=False,
        )  # fmt: skip
