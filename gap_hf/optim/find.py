"""Find the gap optimizer among the wrappers around it."""

from typing import Any

from .shell import GapOptimizer


def find_gap_optimizer(optimizer: Any) -> GapOptimizer | None:
    """The gap optimizer inside Accelerate's and DeepSpeed's wrappers, or None if it is another optimizer."""
    while not isinstance(optimizer, GapOptimizer) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer if isinstance(optimizer, GapOptimizer) else None
