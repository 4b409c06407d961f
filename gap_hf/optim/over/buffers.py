"""What is kept for each parameter, as the rest of the package knows buffers."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..work import Buffer
from .leaves import Leaf, Unfit, template
from .spec import Spec

LOOKED_AT = tuple(map(torch.Size, ((4, 3), (5,), (2, 3, 2, 2), (1,), ())))
"""Shapes tried to find out what is kept: it may differ with the number of axes."""

WIDE = (torch.float64, torch.int64, torch.int32, torch.uint32)
"""What float32 can't hold without loss; float64 holds counts up to 2^53."""


@lru_cache(maxsize=256)
def buffers(spec: Spec, j: int) -> tuple[Buffer, ...]:
    """Return the buffers of candidate ``j``. Raises Unfit if it takes parameters of no shape at all."""
    tables: dict[torch.dtype, dict[torch.Size, dict[str, Leaf]]] = {torch.float32: {}, torch.bfloat16: {}}
    refused: list[Unfit] = []
    for dtype, table in tables.items():
        for shape in LOOKED_AT:
            try:
                found = template(spec, shape, dtype).leaves
            except Unfit as error:
                refused.append(error)
            else:
                table[shape] = {leaf.name: leaf for leaf in found if leaf.kept}
    full, short = tables[torch.float32], tables[torch.bfloat16]
    if not full:
        raise refused[0]
    names = {name: None for leaves in full.values() for name in leaves}  # in order, each once
    return tuple(buffer_of(spec, j, name, full, short) for name in names)


def buffer_of(
    spec: Spec,
    j: int,
    name: str,
    full: dict[torch.Size, dict[str, Leaf]],
    short: dict[torch.Size, dict[str, Leaf]],
) -> Buffer:
    """Return the buffer for a leaf, given what is kept for parameters in float32 and in bfloat16, by their shapes."""
    like_parameters = all(name in leaves and leaves[name].shape == shape for shape, leaves in full.items())
    kinds = {leaves[name].dtype for leaves in full.values() if name in leaves}
    kinds_in_short = {leaves[name].dtype for leaves in short.values() if name in leaves}
    dtype: torch.dtype | None = torch.float32
    if kinds & {None, *WIDE}:  # None: a number of Python's
        dtype = torch.float64
    elif kinds == {torch.float32} and kinds_in_short <= {torch.bfloat16}:
        dtype = None
    return Buffer(f"{name}_{j}", None if like_parameters else own_shape(spec, name), compact=False, dtype=dtype)


def own_shape(spec: Spec, name: str) -> Callable[[torch.Size], torch.Size]:
    """Return the function from a parameter's shape to a leaf's; it has no elements where there is no such leaf."""

    def shape_of(whole: torch.Size) -> torch.Size:
        try:
            leaves = template(spec, whole, torch.float32).leaves
        except Unfit as error:
            shape = tuple(whole)
            raise RuntimeError(f"candidate {spec.text} does not take a parameter of shape {shape}: {error}") from error
        return next((leaf.shape or torch.Size() for leaf in leaves if leaf.name == name), torch.Size([0]))

    return shape_of


def named(declared: Sequence[Buffer], columns: Sequence[list[Tensor]], j: int, i: int) -> dict[str, Tensor]:
    """Return what candidate ``j`` keeps for the ``i``-th fragment, by the names of its leaves."""
    end = f"_{j}"
    return {
        buffer.name.removesuffix(end): column[i]
        for buffer, column in zip(declared, columns, strict=True)
        if buffer.name.endswith(end)
    }
