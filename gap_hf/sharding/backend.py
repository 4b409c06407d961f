"""The table of backends: who shards an optimizer's parameters, and what gap_hf does about it.

``gap_hf/sharding/__init__.py`` says which backends are in it, and in which order they are asked.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

from torch import Tensor
from torch.optim import Optimizer

from . import launch
from .heap import one_scan
from .layout import REPLACED, Layout
from .part import SPARSE, SUBCLASS
from .refusal import Refusal
from .sharded import DIFFERENT


class MakesState(Protocol):
    """An optimizer as a backend sees it before its state is saved."""

    param_groups: list[dict[str, Any]]
    state: Any

    def make_state(self, g: int, key: Tensor) -> dict[str, Any]:
        """Return ``state[key]``, of group ``g``; it is made if there is none."""


class Backend(ABC):
    """One way in which parameters are laid out over processes: an entry of the table.

    Attributes:
        name: its name as users know it.
        refusals: its settings that gap_hf refuses.
    """

    name: ClassVar[str]
    refusals: ClassVar[tuple[Refusal, ...]] = ()

    @abstractmethod
    def claims(self, optimizer: Optimizer) -> bool:
        """Whether this backend holds the parameters of ``optimizer``. This must not communicate."""

    @abstractmethod
    def layout(self, optimizer: Optimizer) -> Layout | None:
        """Find out how the parameters of an optimizer that it claims lie at this moment.

        Returns:
            The layout; None while the backend is still wrapping the optimizer, when there is nothing to step yet.

        Raises:
            RuntimeError: the layout is one of ``refusals``, or gap_hf does not know it.
        """

    def prepare(self, optimizer_class: type[Optimizer]) -> None:  # noqa: B027
        """Make the backend, if it is in use at all, accept ``optimizer_class``; called when one is built."""

    def before_state_dict(self, optimizer: MakesState) -> None:  # noqa: B027
        """Do what has to be done before the state of ``optimizer`` is saved; called for every optimizer."""


_table: list[Backend] = []


def register(*backends: Backend) -> None:
    """Add entries to the table. They are asked in this order, before the entries that are there already."""
    _table[:0] = backends


def find_layout(optimizer: Optimizer) -> Layout | None:
    """Ask the first backend that claims ``optimizer`` how its parameters lie over processes at this moment.

    Returns:
        The layout; None while the backend is still wrapping the optimizer, when there is nothing to step yet.

    Raises:
        RuntimeError: gap_hf is not exact in the layout, or does not know it.
    """
    with one_scan():
        return next(backend for backend in _table if backend.claims(optimizer)).layout(optimizer)


def prepare(optimizer_class: type[Optimizer]) -> None:
    """Let all backends get ready for optimizers of ``optimizer_class``."""
    for backend in _table:
        backend.prepare(optimizer_class)


def before_state_dict(optimizer: MakesState) -> None:
    """Let all backends do what they must before the state of ``optimizer`` is saved."""
    for backend in _table:
        backend.before_state_dict(optimizer)


def all_refusals() -> Iterator[tuple[str, Refusal]]:
    """List every refusal, with the name of the backend that it belongs to."""
    yield from (("all", refusal) for refusal in (SPARSE, SUBCLASS, DIFFERENT, REPLACED))
    yield from (("accelerate", refusal) for refusal in launch.REFUSALS)
    for backend in _table:
        yield from ((backend.name, refusal) for refusal in backend.refusals)
