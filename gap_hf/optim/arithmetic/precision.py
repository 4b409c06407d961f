"""The precision in which buffers are updated and parameters moved, and the rounding of results that are stored.

A buffer of the gradient's dtype is updated by the same operations as torch.optim's, and so rounds like them. Everything
else is computed in float32 (or wider) and rounded once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .operations import Operations
from .rounding import Draw, round_stochastically


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which values of ``dtype`` are scored."""
    return torch.promote_types(dtype, torch.float32)


def cast(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Cast ``tensors`` to ``dtype``; tensors that have it are returned as they are."""
    return [t if t.dtype == dtype else t.to(dtype) for t in tensors]


def update(
    ops: Operations,
    stored: list[Tensor],
    grads: list[Tensor],
    operation: Callable[[list[Tensor], list[Tensor]], None],
    draws: list[Draw] | None = None,
) -> list[Tensor]:
    """Apply ``operation(buffers, grads)``, which works in place, and store the result.

    Args:
        ops: the operations to copy with.
        stored: N buffers, of any dtype.
        grads: N gradients.
        operation: changes the first of two lists of tensors in place.
        draws: the noise of each for stochastic rounding; None rounds to the nearest.

    Returns:
        The new buffers as they are stored, in the precision of the scores.
    """
    if draws is None and stored[0].dtype == grads[0].dtype:
        operation(stored, grads)
    else:
        # the noise of stochastic rounding is made of float32's bits, also where parameters are float64
        wide = compute_dtype(grads[0].dtype) if draws is None else torch.float32
        wide_grads = cast(grads, wide)
        exact = [t.clone() if t is s else t for s, t in zip(stored, cast(stored, wide), strict=True)]
        operation(exact, wide_grads)
        if draws is not None:
            exact = [round_stochastically(*all_of) for all_of in zip(exact, wide_grads, stored, draws, strict=True)]
        ops.copy_(stored, exact)
    return cast(stored, compute_dtype(stored[0].dtype))


def store(ops: Operations, values: list[Tensor], new: list[Tensor]) -> None:
    """Round ``new`` into ``values``, unless both are the same tensors because the precision is the same."""
    if new[0] is not values[0]:
        ops.copy_(values, new)
