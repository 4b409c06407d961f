"""Find the gap optimizer among the wrappers around it."""

from typing import Any

from .shell import GapOptimizer


def find_gap_optimizer(optimizer: Any) -> GapOptimizer | None:
    """The gap optimizer inside wrappers like Accelerate's, DeepSpeed's and Lightning's, or None if there is none."""
    while hasattr(optimizer, "optimizer"):  # Lightning's pass for instances of the class that they wrap
        optimizer = optimizer.optimizer
    return optimizer if isinstance(optimizer, GapOptimizer) else None
