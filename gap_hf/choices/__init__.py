"""What a gap optimizer chose at every step: recorded, written to the choices file, and read back.

Reading a file takes neither torch nor transformers; recording takes torch.
"""

from .reader import Choices, read_choices

__all__ = ["Choices", "read_choices"]
