"""The common part of all families' fused CUDA kernels, in Triton; ``fused_cuda.py`` launches them.

Fragments are cut into blocks of up to BLOCK elements, one program each; all fragments of a work share each launch. What
the programs find on the device, for n fragments with B buffers each, of which the first F are first moments:

    table     int64: columns of n addresses: value, step, B buffers, gradient; then n flags, whether all of a
              fragment's arrays begin at a multiple of 16 bytes; then the addresses of the counters
    blocks    int64: n element counts; n + 1 numbers, each fragment's first block; then for each block its fragment
    numbers   float64: the family's numbers

Each of K candidates has a place among the F first moments, or the place F, where its moment is the gradient itself. The
constant FIRST holds these places, 16 bits for each candidate, the lowest for the first.

Everything is computed in float32, except values made from the numbers and the count of steps, which are float64 until
they meet an element. The semantics and formulas are the same as in the kernels in ``c/``.
"""

import triton
import triton.language as tl

# ---------------------------------------------------------------- numbers in memory


@triton.jit
def hash32(x: tl.tensor) -> tl.tensor:
    """Do what ``hash32`` of ``rounding.py`` does, on uint32."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def noise_for(grad: tl.tensor, old: tl.tensor, t: tl.tensor, j: tl.constexpr, BITS: tl.constexpr) -> tl.tensor:
    """Do what ``noise_for`` of ``rounding.py`` does, on uint32, for candidate ``j`` at step ``t``."""
    salt = t.to(tl.uint32) * 0x9E3779B9 + ((j // 2 * 0x85EBCA6B) & 0xFFFFFFFF)
    hashed = hash32(grad.to(tl.uint32, bitcast=True) + salt)
    if j % 2 == 1:
        hashed = hashed >> (32 - BITS)
    return (hashed + old * 0x9E3B) & ((1 << BITS) - 1)


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
    """Return pointers to the elements from ``begin`` on of fragment ``i``'s array in ``column``."""
    start = tl.load(table + column * n + i).to(tl.pointer_type(DTYPE))
    if WHOLE:  # so that four or eight elements travel at once
        start = tl.multiple_of(start, 16)
    return start + begin + tl.arange(0, BLOCK)


@triton.jit
def read(at: tl.tensor, inside: tl.tensor, WHOLE: tl.constexpr) -> tl.tensor:
    """Read elements as they are stored, 0 outside. A whole block has no mask: a mask would split its loads."""
    if WHOLE:
        stored = tl.load(at)
    else:
        stored = tl.load(at, mask=inside, other=0.0)
    return stored


@triton.jit
def write(at: tl.tensor, stored: tl.tensor, inside: tl.tensor, WHOLE: tl.constexpr) -> None:
    """Store elements so that ``read`` can read them again."""
    if WHOLE:
        tl.store(at, stored)
    else:
        tl.store(at, stored, mask=inside)


@triton.jit
def place(blocks: tl.tensor, n: tl.tensor, b: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """Find the fragment of block ``b``, the block's first element in it, and the number of elements, int32."""
    i = tl.load(blocks + 2 * n + 1 + b)
    begin = (b - tl.load(blocks + n + i)) * BLOCK
    return i, begin, tl.minimum(tl.load(blocks + i) - begin, BLOCK).to(tl.int32)


@triton.jit
def steps_of(table: tl.tensor, n: tl.tensor, i: tl.tensor) -> tl.tensor:
    """Read the count of steps of fragment ``i``, float64."""
    return tl.load(tl.load(table + n + i).to(tl.pointer_type(tl.float64)))


@triton.jit
def bias_correction(log_beta: tl.tensor, t: tl.tensor) -> tl.tensor:
    """Compute 1 - beta^t in float64."""
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
    """Read the gradient that enters the filter, float32; the gradients are in ``COLUMN``."""
    g = read(elements(table, n, COLUMN, i, begin, VALUE, BLOCK, WHOLE), inside, WHOLE).to(tl.float32)
    if MAXIMIZE:
        g = -g
    if L2:
        g += l2 * read(elements(table, n, 0, i, begin, VALUE, BLOCK, WHOLE), inside, WHOLE).to(tl.float32)
    return g


# ---------------------------------------------------------------- the counts of steps


@triton.jit(do_not_specialize=["at", "count"])
def tick(table: tl.tensor, at: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Add one step to each of the ``count`` counters whose addresses begin at ``table[at]``."""
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    steps = tl.load(table + at + c, mask=c < count, other=0).to(tl.pointer_type(tl.float64))
    tl.store(steps, tl.load(steps, mask=c < count, other=0.0) + 1.0, mask=c < count)


@triton.jit(do_not_specialize=["n", "n_blocks"])
def add_up(
    blocks: tl.tensor, partial: tl.tensor, sums: tl.tensor, n: tl.tensor, n_blocks: tl.tensor, CHUNK: tl.constexpr
) -> None:
    """Add up ``partial``, (S, n_blocks), into ``sums``, (n, S) float64, in a fixed order; one program per sum."""
    i, s = tl.program_id(0), tl.program_id(1)
    first, end = tl.load(blocks + n + i), tl.load(blocks + n + i + 1)
    total = tl.zeros((CHUNK,), tl.float64)
    for low in range(first, end, CHUNK):
        b = low + tl.arange(0, CHUNK)
        total += tl.load(partial + s * n_blocks + b, mask=b < end, other=0.0).to(tl.float64)
    tl.store(sums + i * tl.num_programs(1) + s, tl.sum(total))


# ---------------------------------------------------------------- buffers


@triton.jit
def rounded_stochastically(m: tl.tensor, g: tl.tensor, old: tl.tensor, t: tl.tensor, j: tl.constexpr) -> tl.tensor:
    """Do what ``round_stochastically`` of ``rounding.py`` does for candidate ``j``; ``old`` is bfloat16."""
    noise = noise_for(g, old.to(tl.uint16, bitcast=True).to(tl.uint32), t, j, 16)
    bits = m.to(tl.uint32, bitcast=True)
    finite = (bits & 0x7F800000) != 0x7F800000
    rounded = ((bits + noise) & 0xFFFF0000).to(tl.float32, bitcast=True)
    return tl.where(finite, rounded, m).to(tl.bfloat16)


@triton.jit
def picked_moment(
    table: tl.tensor,
    places: tl.tensor,
    j: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,
    begin: tl.tensor,
    inside: tl.tensor,
    l2: tl.tensor,
    factor: tl.tensor,
    K: tl.constexpr,
    F: tl.constexpr,
    COLUMN: tl.constexpr,
    VALUE: tl.constexpr,
    FIRST_DTYPE: tl.constexpr,
    L2: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Read the first moment of candidate ``j``, which only the device knows, float32.

    Args:
        places: K float64, the candidates' places.
        factor: what the gradient in ``COLUMN`` is multiplied by where it is the moment.
    """
    if F == K:
        m = read(elements(table, n, 2 + j, i, begin, FIRST_DTYPE, BLOCK, WHOLE), inside, WHOLE).to(tl.float32)
    else:
        place = tl.load(places + j).to(tl.int64)
        if place == F:
            m = factor * filtered(table, n, i, begin, inside, l2, COLUMN, VALUE, L2, MAXIMIZE, BLOCK, WHOLE)
        else:
            at = elements(table, n, 2 + place, i, begin, FIRST_DTYPE, BLOCK, WHOLE)
            m = read(at, inside, WHOLE).to(tl.float32)
    return m


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
def learning_rate(lr: tl.tensor, ON_DEVICE: tl.constexpr) -> tl.tensor:
    """Return the learning rate, float64, given as a number or as a pointer to it."""
    if ON_DEVICE:
        rate = tl.load(lr).to(tl.float64)
    else:
        rate = tl.cast(lr, tl.float64)
    return rate
