"""Optimizers that must know how many items each gradient is the mean of; the number is told, never guessed."""

from collections.abc import Mapping
from typing import Any

from ..sharding.accumulated import from_accelerate
from ..sharding.layout import Layout
from .family import Option
from .options import is_number
from .shell import GapOptimizer

TOLD, ACCELERATE = "told", "accelerate"


def is_batch_size(value: Any) -> bool:
    """Whether ``value`` is a number above 0, or names a source of it."""
    return value in (TOLD, ACCELERATE) if isinstance(value, str) else is_number(value) and 0 < value < float("inf")


def from_text(text: str) -> Any:
    """Read ``batch_size`` from ``optim_args``; Trainer does not accumulate by Accelerate. Raises ValueError."""
    return text if text == TOLD else float(text)


BATCH_SIZE = Option(
    "B, how many items each gradient is the mean of, over all processes and accumulated steps; ``'accelerate'`` takes "
    "it from the prepared data loader and ``accumulate``, ``'told'`` from ``tell_batch_size``, which Trainer calls.",
    is_batch_size,
    "the number of items that each gradient is the mean of, over all processes and accumulated steps, or 'accelerate' "
    "or 'told'",
    example="batch_size=64 or batch_size=told",
    read=from_text,
    resumed="run",
)


class Untold(ValueError):
    """The error where nobody has told the batch size of a step."""


def batch_size(options: Mapping[str, Any]) -> float:
    """Return B for this step.

    Raises:
        Untold: nobody has told it.
    """
    size = options["batch_size"]
    if not isinstance(size, str):
        return float(size)
    if not options.get("last_batch_size"):
        raise Untold(
            f"batch_size={size!r}, but nobody has called tell_batch_size before this step. Trainer does, if its "
            "get_batch_samples is not overridden. Else give the number itself: batch_size=64"
        )
    return float(options["last_batch_size"])


class KnowsBatchSize(GapOptimizer):
    """An optimizer with the option ``batch_size``; ``param_group['last_batch_size']`` is what the last step used."""

    _told: float = 0.0

    def tell_batch_size(self, size: float) -> None:
        """Say how many items the gradient of the next step is the mean of, for groups with ``batch_size='told'``.

        Raises:
            ValueError: it is not a number above 0.
        """
        if isinstance(size, str) or not is_batch_size(size):
            raise ValueError(f"the batch size must be a number above 0; got {size!r}")
        self._told = float(size)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self.param_groups[-1].setdefault("last_batch_size", 0.0)

    def _take_step(self, layout: Layout) -> None:
        before, unknown = self.steps_taken, None
        for group in self.param_groups:
            size = group["batch_size"]
            if size == ACCELERATE:
                try:
                    size = from_accelerate()
                except ValueError as error:  # which matters only if this is a step, and not the making of the state
                    size, unknown = 0.0, error
            group["last_batch_size"] = self._told if size == TOLD else float(size)
        try:
            super()._take_step(layout)
        except Untold as error:
            raise unknown or error from None
        if self.steps_taken != before:
            self._told = 0.0  # it was that step's
