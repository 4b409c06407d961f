"""Adams's power iteration on CUDA, in Triton: the two products of each matrix with a vector, and their lengths.

The programs find the tasks that they are dealt, and with each its fragment, on the device (``adams_cuda.py``):

    boxes      int64: six numbers for each box of a matrix (``matrices.py``)
    about      int64: eight columns for each fragment: R, C, its parts of v, Wv and norm, its first box; how it is cut
    left       int64: for each task its fragment, its first column, its first box and the end of its boxes
    right      int64: for each task its fragment, its box and its first row in that
    matrices   int64: for each matrix its fragment, and its place in the fragment's stack

Everything is added up in float64, so that neither the cut nor the tasks show in u.
"""

import triton
import triton.language as tl

__all__ = ["left", "lengths", "right", "unit"]


@triton.jit
def left(
    table: tl.tensor,
    boxes: tl.tensor,
    about: tl.tensor,
    tasks: tl.tensor,
    v: tl.tensor,
    n: tl.tensor,
    COLUMN: tl.constexpr,
    VALUE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Compute some columns of a fragment's share of W'u; ``COLUMN`` of the table has u."""
    task = tasks + 4 * tl.program_id(0)
    i, low, b, end = tl.load(task), tl.load(task + 1), tl.load(task + 2), tl.load(task + 3)
    C, stack = tl.load(about + 8 * i + 1), tl.load(about + 8 * i + 7)
    values = tl.load(table + i).to(tl.pointer_type(VALUE))
    u = tl.load(table + COLUMN * n + i).to(tl.pointer_type(tl.float32))
    columns, r = low + tl.arange(0, COLUMNS), tl.arange(0, ROWS)
    total = tl.zeros((COLUMNS,), tl.float64)
    while b < end:
        at, height, width = tl.load(boxes + 6 * b), tl.load(boxes + 6 * b + 1), tl.load(boxes + 6 * b + 2)
        c = columns - tl.load(boxes + 6 * b + 4)
        for first in range(0, height, ROWS):
            row = at + (first + r) * width
            there = first + r < height
            inside = there[:, None] & ((c >= 0) & (c < width))[None, :]
            W = tl.load(values + row[:, None] + c[None, :], mask=inside, other=0.0).to(tl.float64)
            total += tl.sum(W * tl.load(u + row, mask=there, other=0.0).to(tl.float64)[:, None], axis=0)
        b += 1
    tl.store(v + tl.load(about + 8 * i + 2) + columns, total, mask=columns < C * stack)


@triton.jit
def unit(about: tl.tensor, matrices: tl.tensor, v: tl.tensor, COLUMNS: tl.constexpr) -> None:
    """Scale the part of W'u of one matrix to length 1; one of 0 stays."""
    m = tl.program_id(0)
    i, place = tl.load(matrices + 2 * m), tl.load(matrices + 2 * m + 1)
    C = tl.load(about + 8 * i + 1)
    mine, c = v + tl.load(about + 8 * i + 2) + place * C, tl.arange(0, COLUMNS)
    squares = tl.zeros((COLUMNS,), tl.float64)
    for low in range(0, C, COLUMNS):
        x = tl.load(mine + low + c, mask=low + c < C, other=0.0)
        squares += x * x
    norm = tl.sqrt(tl.sum(squares))
    norm = tl.where(norm > 0, norm, 1.0)
    for low in range(0, C, COLUMNS):
        x = tl.load(mine + low + c, mask=low + c < C, other=0.0)
        tl.store(mine + low + c, x / norm, mask=low + c < C)


@triton.jit
def right(
    table: tl.tensor,
    boxes: tl.tensor,
    about: tl.tensor,
    tasks: tl.tensor,
    v: tl.tensor,
    Wv: tl.tensor,
    VALUE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Compute some rows of a fragment's share of W v: those of one box."""
    task = tasks + 3 * tl.program_id(0)
    i, b, low = tl.load(task), tl.load(task + 1), tl.load(task + 2)
    at, height, width = tl.load(boxes + 6 * b), tl.load(boxes + 6 * b + 1), tl.load(boxes + 6 * b + 2)
    values = tl.load(table + i).to(tl.pointer_type(VALUE))
    mine = v + tl.load(about + 8 * i + 2) + tl.load(boxes + 6 * b + 4)
    r, c = low + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS,), tl.float64)
    for first in range(0, width, COLUMNS):
        there = first + c < width
        inside = (r < height)[:, None] & there[None, :]
        W = tl.load(values + at + r[:, None] * width + (first + c)[None, :], mask=inside, other=0.0).to(tl.float64)
        total += tl.sum(W * tl.load(mine + first + c, mask=there, other=0.0)[None, :], axis=1)
    out = Wv + tl.load(about + 8 * i + 3) + tl.load(boxes + 6 * b + 3)
    tl.store(out + r, total, mask=r < height)


@triton.jit
def lengths(about: tl.tensor, matrices: tl.tensor, Wv: tl.tensor, norm: tl.tensor, ROWS: tl.constexpr) -> None:
    """Compute |W v| of one matrix."""
    m = tl.program_id(0)
    i, place = tl.load(matrices + 2 * m), tl.load(matrices + 2 * m + 1)
    R, r = tl.load(about + 8 * i), tl.arange(0, ROWS)
    mine = Wv + tl.load(about + 8 * i + 3) + place * R
    squares = tl.zeros((ROWS,), tl.float64)
    for low in range(0, R, ROWS):
        x = tl.load(mine + low + r, mask=low + r < R, other=0.0)
        squares += x * x
    tl.store(norm + tl.load(about + 8 * i + 4) + place, tl.sqrt(tl.sum(squares)))
