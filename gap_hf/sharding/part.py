"""``Part``: fragments of parameters, as plain local tensors. This is all that the algorithm sees of a layout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import attrgetter, is_not
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from .refusal import Refusal

is_there = partial(is_not, None)


class Cut(Protocol):
    """How the N fragments of a part are cut out, as views: all at once, as there may be thousands."""

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        """Cut them out of ``tensors``, which are laid out like the part's keys."""

    def select(self, chosen: Sequence[int]) -> "Cut":
        """Return the cut of the fragments ``chosen``, by their places and in that order."""


@dataclass(slots=True, eq=False)
class Part:
    """The N fragments of one group that one call of ``step`` was handed, as plain local tensors, column by column.

    A fragment is the part of one parameter that lives on this rank.

    Attributes:
        g: the group's number.
        group: the parameter group.
        rows: each fragment's parameter, by its place in the group.
        keys: the tensors under which ``optimizer.state`` files the buffers.
        values: the elements themselves.
        grads: their gradients, in the values' shapes; None where the parameter took no part in the loss.
        cut: cuts the fragments out of tensors that are laid out like the keys; None if they are the whole tensors.
        copies: how many ranks hold this very fragment.
        wholes: the gradients of the whole parameters, in their shapes, where they were asked for and the fragments are
            pieces; None without a gradient.
        within: where the fragments are in these, flattened: a slice, or the indices of all elements.
    """

    g: int
    group: dict[str, Any]
    rows: tuple[int, ...]
    keys: list[Tensor]
    values: list[Tensor]
    grads: list[Tensor | None]
    cut: Cut | None
    copies: tuple[int, ...]
    wholes: list[Tensor | None] | None = None
    within: list[slice | Tensor] | None = None

    def select(self, chosen: Sequence[int]) -> "Part":
        """Return the fragments ``chosen``, by their places in the columns and in that order."""
        if chosen == range(len(self.rows)):  # what a kernel is dealt that takes everything; a list is never equal to it
            return self
        keys, values = ([column[i] for i in chosen] for column in (self.keys, self.values))
        grads = [self.grads[i] for i in chosen]
        cut = None if self.cut is None else self.cut.select(chosen)
        rows, copies = (tuple(column[i] for i in chosen) for column in (self.rows, self.copies))
        wholes = None if self.wholes is None else [self.wholes[i] for i in chosen]
        within = None if self.within is None else [self.within[i] for i in chosen]
        return Part(self.g, self.group, rows, keys, values, grads, cut, copies, wholes, within)

    def with_grad(self) -> "Part":
        """Return the fragments that have a gradient."""
        if all(map(is_there, self.grads)):
            return self
        return self.select([i for i, grad in enumerate(self.grads) if grad is not None])

    def gradients(self) -> list[Tensor]:
        """Return ``grads``; every fragment must have one."""
        return cast(list[Tensor], self.grads)

    def local(self, tensors: list[Tensor]) -> list[Tensor]:
        """Cut the fragments out of ``tensors``, which are laid out like the keys."""
        return tensors if self.cut is None else self.cut(tensors)


Start = int | tuple[int, ...]
"""Where a fragment begins in its parameter: the place of its first element in the flattened parameter or, of a box, the
indices of its first element."""


class Piece(NamedTuple):
    """A stretch of a parameter on this rank.

    Attributes:
        key: the tensor under which its buffers are filed.
        local: a function that cuts the piece out of such a buffer.
        offset: the place of its first element in the flattened parameter.
    """

    key: Tensor
    local: Callable[[Tensor], Tensor]
    offset: int


PLAIN = {Tensor, nn.Parameter, nn.Buffer}
layout_of = attrgetter("layout")

SPARSE = Refusal(
    "sparse gradients",
    "the moments of all elements enter the scores",
    "build the layer with `sparse=False`",
    in_running=lambda grad: layout_of(grad) != torch.strided,
)
SUBCLASS = Refusal(
    "a tensor subclass that gap_hf does not know",
    "it is unknown which of its elements a rank holds",
    "use plain tensors, DTensors of plain tensors, or what FSDP1 and DeepSpeed ZeRO make of them",
    in_running=lambda tensor: type(tensor) not in PLAIN,
)


def check_plain(values: list[Tensor], grads: list[Tensor | None], name: str) -> None:
    """Raise RuntimeError, with the place put into ``name``, unless values and gradients are ordinary and dense."""
    there = grads if all(map(is_there, grads)) else [grad for grad in grads if grad is not None]
    if PLAIN.issuperset(map(type, chain(values, there))) and {torch.strided}.issuperset(map(layout_of, there)):
        return
    for i, (value, grad) in enumerate(zip(values, grads, strict=True)):
        where = name.format(i)
        if grad is not None and SPARSE.is_running(grad):
            raise RuntimeError(SPARSE.message(f"the gradient of {where} is sparse"))
        for part, tensor in (("", value), ("the gradient of ", grad)):
            if tensor is not None and SUBCLASS.is_running(tensor):
                kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
                raise RuntimeError(SUBCLASS.message(f"{part}{where} is a {kind}, {SUBCLASS.setting}"))
