"""From scores to a candidate: ties, values that are not finite, and hysteresis.

Everything works on float64 tensors of any leading shape (none for ``type='switch'``, one entry per parameter for
``type='switch_parameter_wise'``), never looks at a parameter, and never waits for the device.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

TIE = 1e-6
"""Scores this close to the largest (relative) count as equal to it: sums taken in another order must not pick
another candidate. The kernels in C are told it with each job."""


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


class Choice(NamedTuple):
    """The choice for the whole model (0-dim) or for each of P parameters (``(P,)``).

    Attributes:
        candidate: int64.
        negative_steps: int64, consecutive steps on which the applied candidate's raw score was negative.
        reset: bool, whether a soft reset is due; the count starts again there.
    """

    candidate: Tensor
    negative_steps: Tensor
    reset: Tensor


def choose(
    J: Tensor,
    averaged: Tensor,
    counts: Tensor,
    candidate: Tensor,
    negative_steps: Tensor,
    threshold: int,
    pick: Callable[[Tensor], Tensor] = best_candidate,
) -> Choice:
    """Choose a candidate by ``averaged``, and count steps against the gradient by ``J``.

    Args:
        J: ``(..., K)`` float64, the raw scores.
        averaged: ``(..., K)`` float64, their moving average, or the same scores again.
        counts: ``(...)`` bool, False where this step says nothing (no gradient, or a score that is not finite), so
            that the previous choice and the count stay as they are.
        candidate: ``(...)`` int64, the previous choice.
        negative_steps: ``(...)`` int64, the count so far.
        threshold: the count at which a soft reset is due.
        pick: the rule that turns scores into candidates.
    """
    new = torch.where(counts, pick(averaged), candidate)
    applied = J.gather(-1, new.unsqueeze(-1)).squeeze(-1)
    counted = torch.where(applied < 0, negative_steps + 1, 0)
    reset = counted >= threshold
    counted = torch.where(reset, 0, counted)
    return Choice(new, torch.where(counts, counted, negative_steps), reset & counts)


def average(J: Tensor, counts: Tensor, J_bar: Tensor, J_ema: float) -> Tensor:
    """Update the moving average of ``J``.

    A score that is not finite would stay in it for ever, so such a step leaves the average as it is. So does a step
    without gradients.
    """
    return torch.where(counts, J_ema * J_bar + (1 - J_ema) * J if J_ema else J, J_bar)
