"""A control: everything is done as for the paper's rule, but the first candidate is always applied."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from .rule import Rule


class First(Rule):
    """Apply the first-listed candidate, whatever the scores are."""

    types: ClassVar = {"first": False}

    def judge(self, scores: Tensor, kept: Mapping[str, Tensor], number: Tensor) -> dict[str, Tensor]:
        return {"last_choice": torch.zeros_like(kept["last_choice"])}
