"""The former place of ``read_choices``, which is now imported from ``gap_hf.choices``."""

from ..choices import Choices, read_choices

__all__ = ["Choices", "read_choices"]
