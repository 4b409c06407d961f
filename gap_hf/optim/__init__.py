"""The algorithm, on plain local tensors."""

from .families.adam import Adam
from .families.gap_adamw import GapAdamW
from .families.sgdm import SGDM
from .shell import GapOptimizer

__all__ = ["SGDM", "Adam", "GapAdamW", "GapOptimizer"]
