"""Where ``read_choices`` used to be: import it from ``gap_hf.choices``."""

from ..choices import Choices, read_choices

__all__ = ["Choices", "read_choices"]
