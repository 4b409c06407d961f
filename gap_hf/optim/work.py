"""``Work``: what the arithmetic is handed, which is numbers and lists of plain tensors, without groups or layouts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arithmetic.boxes import Place


class Relative(NamedTuple):
    """What the exponents of 8-bit codes are counted from: ``arithmetic/eight_bit.py``.

    Attributes:
        to: the name of the second moment.
        exponent: the candidate's own.
    """

    to: str
    exponent: int


class Buffer(NamedTuple):
    """A tensor that is kept for each parameter from step to step.

    Attributes:
        name: its key in the parameter's state.
        shape: a function from the whole parameter's shape to the buffer's; None stands for the parameter's shape, and
            only where parameters are whole can the buffer have another.
        compact: whether the option ``state_dtype`` applies to it; if not, that option keeps it in float32.
        dtype: the dtype that it is stored in at least, whatever ``state_dtype`` says; None: the parameter's dtype.
        fill: every element's value at the beginning, or a function that is given a new buffer of zeros and the whole
            parameter's shape, and fills it.
        soft_reset: the factor that a soft reset multiplies it by.
        nonnegative: whether a negative element is a sign of damage.
        relative: what its exponents are counted from in 8 bits; None if it can't be stored so.
    """

    name: str
    shape: Any = None
    compact: bool = True
    dtype: torch.dtype | None = None
    fill: Any = 0.0
    soft_reset: float = 1.0
    nonnegative: bool = False
    relative: Relative | None = None

    def at_least(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype that it is stored in if ``dtype`` is what the options or the parameter ask for."""
        return dtype if self.dtype is None else torch.promote_types(dtype, self.dtype)


@dataclass(slots=True, eq=False)
class Work:
    """Fragments of one group with a gradient each, and their buffers; N of everything. Once dealt, on one device.

    Attributes:
        numbers: the group's numbers, as its family reads them.
        declared: the family's buffers.
        values: the elements, updated in place.
        grads: their gradients, left alone.
        steps: 0-dim, float64 but for torch's own kernels: the counts of steps, the current one included once
            ``Kernel.tick`` has been called.
        buffers: for each of ``declared`` its N tensors.
        scored: whether the last round's sums are wanted, which scores are made of.
        places: where the fragments lie in their parameters; empty unless the family asks for it.
        wholes: the gradients of the whole parameters, where the values are pieces and the family needs more.
        within: where the values are in these, flattened: slices or indices.
        starts: for each candidate, if the family lets it step beforehand, the values that its step begins at, and
        proposals: those after it.
    """

    numbers: Any
    declared: Sequence[Buffer]
    values: list[Tensor]
    grads: list[Tensor]
    steps: list[Tensor]
    buffers: list[list[Tensor]]
    scored: bool = True
    places: Sequence[Place] = ()
    wholes: list[Tensor] | None = None
    within: list[Any] | None = None
    starts: list[list[Tensor]] = field(default_factory=list)
    proposals: list[list[Tensor]] = field(default_factory=list)

    def select(self, rows: Sequence[int]) -> "Work":
        """Return the work on the fragments ``rows``, in that order."""

        def of(tensors: list[Tensor]) -> list[Tensor]:
            return [tensors[i] for i in rows]

        return Work(
            self.numbers,
            self.declared,
            of(self.values),
            of(self.grads),
            of(self.steps),
            [*map(of, self.buffers)],
            self.scored,
            [self.places[i] for i in rows] if self.places else (),
            None if self.wholes is None else of(self.wholes),
            None if self.within is None else [self.within[i] for i in rows],
            [*map(of, self.starts)],
            [*map(of, self.proposals)],
        )
