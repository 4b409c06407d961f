"""The algorithm, on plain local tensors."""

from .families.adam import Adam, GapAdamW
from .families.sgdm import SGDM
from .shell import GapOptimizer

__all__ = ["SGDM", "Adam", "GapAdamW", "GapOptimizer"]
