"""The paper's rule: the candidate whose update is best aligned with the gradient (arXiv 2512.06370)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from .rule import Rule

TIE = 1e-6
"""Scores this close to the largest (relative) count as equal to it: sums taken in another order must not pick
another candidate. The kernels in C are told it with each job."""


class Best(Rule):
    """Apply the candidate with the best score."""

    types: ClassVar = {"switch": False, "switch_parameter_wise": True}

    def judge(self, scores: Tensor, kept: Mapping[str, Tensor], number: Tensor) -> dict[str, Tensor]:
        return {"last_choice": best_candidate(scores)}


def best_candidate(scores: Tensor) -> Tensor:
    """Return the index of the largest score, the lowest of them in a tie; meaningless where a score is not finite.

    Args:
        scores: ``(..., K)`` float64.

    Returns:
        ``(...)`` int64.
    """
    largest = scores.amax(dim=-1, keepdim=True)
    tied = scores >= largest - TIE * largest.abs()
    return tied.to(torch.uint8).argmax(dim=-1)  # of equal values torch.argmax gives the first
