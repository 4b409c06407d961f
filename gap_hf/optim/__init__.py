"""The algorithm, on plain local tensors."""

from .adam import Adam, GapAdamW
from .base import GapOptimizer
from .sgd import SGDM

__all__ = ["SGDM", "Adam", "GapAdamW", "GapOptimizer"]
