"""From scores to a candidate: ties, values that are not finite, and hysteresis.

Everything works on float64 tensors of any leading shape (none for ``type='switch'``, one entry per parameter for
``type='switch_parameter_wise'``) and never looks at a parameter.
"""

import torch
from torch import Tensor

TIE = 1e-6
"""Scores this close to the largest (relative) count as equal to it: sums taken in another order must not pick
another candidate."""


def best_candidate(scores: Tensor, previous: Tensor) -> Tensor:
    """Index of the largest score; among ties the lowest index.

    Args:
        scores: ``(..., K)`` float64.
        previous: ``(...)`` int64, the choice that stands where any of the K scores is NaN or infinite.

    Returns:
        ``(...)`` int64.
    """
    largest = scores.amax(dim=-1, keepdim=True)
    tied = scores >= largest - TIE * largest.abs()
    first = tied.to(torch.uint8).argmax(dim=-1)  # of equal values torch.argmax gives the first
    return torch.where(scores.isfinite().all(dim=-1), first, previous)


def count_negative(scores: Tensor, choice: Tensor, negative_steps: Tensor, threshold: int) -> tuple[Tensor, Tensor]:
    """Count consecutive steps on which the applied candidate's raw score is negative.

    A step whose scores are not all finite says nothing about alignment: the count stays as it was.

    Args:
        scores: ``(..., K)`` float64, the raw J (never its moving average).
        choice: ``(...)`` int64, the applied candidate.
        negative_steps: ``(...)`` int64, the count so far.
        threshold: the count at which the buffers are reset.

    Returns:
        The new count and, as bool, where a soft reset is due (the count starts again there).
    """
    applied = scores.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
    counted = torch.where(applied < 0, negative_steps + 1, 0)
    counted = torch.where(scores.isfinite().all(dim=-1), counted, negative_steps)
    reset = counted >= threshold
    return torch.where(reset, 0, counted), reset
