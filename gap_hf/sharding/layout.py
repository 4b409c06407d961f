"""The vocabulary between backends and the algorithm: where parameters lie, and what is added up over processes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from .part import Cut, Part, Start, check_plain
from .refusal import Refusal

grad_of = attrgetter("grad")

State = Mapping[Tensor, dict[str, Tensor]]
"""The type of ``optimizer.state``."""

Shaped = Callable[[torch.Size], torch.Size]
"""A function from a whole parameter's shape to that of one of its buffers."""

REPLACED = Refusal(
    "parameters that were replaced after the optimizer was built",
    "some backends flatten parameters, and gap_hf does not know this one, so its scores would be wrong",
    "use one that it knows: DDP, FSDP1 (`use_orig_params=True`), FSDP2, tensor parallel or DeepSpeed ZeRO",
    in_running=lambda kept, given: kept != given,
)


def has_float64(device: torch.device) -> bool:
    """Whether tensors on ``device`` can be float64: only CPUs and CUDA devices are sure to have it, MPS has none."""
    return device.type in ("cpu", "cuda", "meta")


class Layout(ABC):
    """How the parameters of one optimizer lie over processes.

    Attributes:
        parameters: the tensors that the module registered, group by group, in the same rows on every rank.
        shapes: the shapes of the whole parameters, wherever their elements lie.
        device: the device on which scores are added up.
    """

    parameters: list[list[Tensor]]
    shapes: list[list[torch.Size]]
    device: torch.device

    @cached_property
    def numel(self) -> list[list[int]]:
        """The element counts of the whole parameters."""
        return [[shape.numel() for shape in group] for group in self.shapes]

    @abstractmethod
    def fits(self, param_groups: list[dict[str, Any]]) -> bool:
        """Whether this is still the layout of ``param_groups``."""

    @abstractmethod
    def receive(
        self, param_groups: list[dict[str, Any]], by_parameter: bool = True, wholes: bool = False
    ) -> list[Part]:
        """Return the fragments that this call of ``step`` was handed.

        Args:
            param_groups: what the optimizer holds during this call.
            by_parameter: whether to cut flat tensors at the parameters' borders; otherwise each tensor is a fragment.
            wholes: whether to gather the whole gradients of parameters in pieces; then every rank must call it.

        Raises:
            RuntimeError: the groups do not hold what the layout says, as far as can be told.
        """

    def check_count(self, g: int, given: int) -> None:
        """Check that group ``g`` has the ``given`` parameters with which the optimizer was built.

        Raises:
            RuntimeError: it has more or fewer, so that choices would be listed under wrong names.
        """
        kept = len(self.parameters[g])
        if REPLACED.is_running(kept, given):
            raise RuntimeError(
                REPLACED.message(
                    f"the parameters of group {g} were replaced after the optimizer was built (it was given {given} "
                    f"parameters and now holds {kept})"
                )
            )

    def complete(self) -> bool:
        """Whether all of this step has been received: not yet, if a backend calls ``step`` once per group."""
        return True

    def publish(self) -> None:  # noqa: B027
        """Hand the new values back to the backend if it has already copied the old ones."""

    def update_model(self) -> None:  # noqa: B027
        """Hand all values to the model if it has copies of them, as after a step. Every rank must call it."""

    def abandon(self) -> None:  # noqa: B027
        """Forget what was received in a step that failed or was interrupted."""

    def was_interrupted(self, param_groups: list[dict[str, Any]]) -> bool:
        """Whether a step had begun that this call of ``step`` does not go on with."""
        return False

    reduces = False
    """Whether ranks hold different elements, so that ``reduce`` adds something up."""

    loads_by_stepping = False
    """Whether torch's checkpoints, which allocate the state by a step of zeros, can be loaded in this layout."""

    counts_together = False
    """Whether parameters of a group share one count of steps."""

    def listed(self) -> AbstractContextManager[None]:
        """While it lasts, the optimizer's groups list their tensors as they do when a state is saved or loaded."""
        return nullcontext()

    saves_own_shapes = True
    """Whether its checkpoints can carry a buffer whose shape is not the parameter's."""

    saves_one_dtype = False
    """Whether its checkpoints take one dtype only for all buffers of a parameter's shape."""

    def verify(self) -> None:  # noqa: B027
        """Check, once and together with the other ranks, that every element is covered exactly once.

        Raises:
            RuntimeError: an element is not, or the ranks hold different parameters.
        """

    def reduce(self, tables: list[Tensor], live: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Add up each group's ``(P, S)`` partial sums over the ranks that hold different elements.

        Args:
            tables: this rank's sums, float64, one row per parameter.
            live: a ``(P,)`` bool for each group: which parameters have a gradient, as far as this rank knows.

        Returns:
            The same two lists over all ranks. Nothing is communicated if every rank holds whole parameters.
        """
        return tables, live

    def add_up(self, numbers: Tensor) -> Tensor:
        """Return the sums of ``numbers`` over the ranks that hold different elements. Every rank must call it.

        Args:
            numbers: this rank's shares, of any shape that is the same on every rank. A share that comes from a fragment
                held by several ranks must have been divided by their number (``Part.copies``).

        Returns:
            The sums, in the shape and on the device of ``numbers``, which stay as they are; ``numbers`` themselves
            where every rank holds whole parameters.
        """
        return numbers

    def maximum(self, values: Tensor) -> Tensor:
        """Return the maximum of ``values`` over the ranks that hold different elements."""
        return values

    @abstractmethod
    def starts(self, part: Part) -> list[Start]:
        """Say where each fragment of ``part`` begins in its parameter."""

    @abstractmethod
    def keys(self, g: int, i: int) -> list[Tensor]:
        """List the keys in ``optimizer.state`` for what this rank holds of parameter ``i`` of group ``g``."""

    @abstractmethod
    def whole(
        self, g: int, i: int, state: State, name: str, dtype: torch.dtype, shaped: Shaped | None = None
    ) -> Tensor:
        """Gather the buffer ``name`` of parameter ``i`` of group ``g`` in its whole shape. Every rank must call it.

        Args:
            g: the group.
            i: the parameter's place in it.
            state: the optimizer's state, which has the entries ``keys(g, i)``.
            name: the buffer's name.
            dtype: the dtype that it is stored in, which a rank that holds nothing of it needs, too.
            shaped: the function that gives its shape if that is not the parameter's.
        """

    @abstractmethod
    def fill(self, g: int, i: int, state: State, name: str, whole: Tensor, shaped: Shaped | None = None) -> None:
        """Copy this rank's part of a whole buffer into ``state``: the reverse of ``whole``. Every rank must call it.

        Args:
            g: the group.
            i: the parameter's place in it.
            state: entries as in the optimizer's state, for ``keys(g, i)``.
            name: the buffer's name.
            whole: the buffer, in its whole shape.
            shaped: the function that gives its shape if that is not the parameter's.
        """

    @abstractmethod
    def shapes_in(self, g: int, key: Tensor) -> list[torch.Size]:
        """List the whole shapes of the parameters of group ``g`` that ``key``, of ``optimizer.state``, has parts of.

        A buffer with a shape of its own, of which every rank with a part of the parameter has all, lies there once for
        each of them, in this order.
        """

    def shaped(self, part: Part, shaped: Shaped, column: list[Tensor]) -> list[Tensor]:
        """Return what belongs to the fragments of ``part`` in the buffers ``column``, which have a shape of their own.

        Args:
            part: the fragments.
            shaped: the function that gives such a buffer's shape.
            column: the buffers of their keys.
        """
        return column


class ParameterLayout(Layout):
    """The base of layouts in which the optimizer's own tensors are the parameters, or one slice of each."""

    loads_by_stepping = True

    def __init__(self, param_groups: list[dict[str, Any]]) -> None:
        self.parameters = self.filed = [list(group["params"]) for group in param_groups]
        self.shapes = [[self.whole_shape(p) for p in group] for group in self.parameters]
        cpu = torch.device("cpu")
        device = next((p.device for group in self.parameters for p in group), cpu)
        self.device = device if has_float64(device) else cpu

    def whole_shape(self, p: Tensor) -> torch.Size:
        """The shape of the whole parameter."""
        return p.shape

    cut: Cut | None = None
    """Gives this rank's plain parts of parameters or buffers; None if these are the tensors themselves."""

    def grads(self, keys: list[Tensor]) -> list[Tensor | None]:
        """Return this rank's plain parts of the gradients."""
        return list(map(grad_of, keys))

    def copies(self, p: Tensor) -> int:
        """The number of ranks that hold this very part."""
        return 1

    def start(self, p: Tensor) -> Start:
        """Where this rank's part of a parameter begins in it."""
        return 0

    @cached_property
    def all_starts(self) -> list[list[Start]]:
        """The ``start`` of all parameters, group by group."""
        return [[self.start(p) for p in group] for group in self.filed]

    def starts(self, part: Part) -> list[Start]:
        return [self.all_starts[part.g][row] for row in part.rows]

    def keys(self, g: int, i: int) -> list[Tensor]:
        return [self.filed[g][i]]

    def whole(
        self, g: int, i: int, state: State, name: str, dtype: torch.dtype, shaped: Shaped | None = None
    ) -> Tensor:
        return state[self.filed[g][i]][name]

    def fill(self, g: int, i: int, state: State, name: str, whole: Tensor, shaped: Shaped | None = None) -> None:
        state[self.filed[g][i]][name].copy_(whole)

    @cached_property
    def places(self) -> dict[int, int]:
        """The parameters' places in their groups, by the identities of their keys."""
        return {id(p): i for group in self.filed for i, p in enumerate(group)}

    def shapes_in(self, g: int, key: Tensor) -> list[torch.Size]:
        return [self.shapes[g][self.places[id(key)]]]

    def fits(self, param_groups: list[dict[str, Any]]) -> bool:
        return len(param_groups) == len(self.parameters) and all(
            are_same(group["params"], known) for group, known in zip(param_groups, self.parameters, strict=True)
        )

    @cached_property
    def counted_copies(self) -> list[tuple[int, ...]]:
        """The ``copies`` of all parameters, group by group."""
        return [tuple(self.copies(p) for p in group) for group in self.parameters]

    @cached_property
    def rows(self) -> list[tuple[int, ...]]:
        """The parameters' places in their groups, group by group."""
        return [tuple(range(len(group))) for group in self.filed]

    def receive(
        self, param_groups: list[dict[str, Any]], by_parameter: bool = True, wholes: bool = False
    ) -> list[Part]:
        parts = []
        for g, group in enumerate(param_groups):
            keys = group["params"]
            values, grads = keys if self.cut is None else self.cut(keys), self.grads(keys)
            check_plain(values, grads, f"parameter {{}} of group {g}")
            parts.append(Part(g, group, self.rows[g], keys, values, grads, self.cut, self.counted_copies[g]))
        return parts


def are_same(some: list[Tensor], others: list[Tensor]) -> bool:
    """Whether two lists hold the same tensors, not equal ones, in the same order."""
    return len(some) == len(others) and all(map(is_, some, others))
