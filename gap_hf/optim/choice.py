"""From partial sums to scores, and from scores to a candidate: ties, values that are not finite, and hysteresis.

Everything works on float64 tensors of any leading shape (none for ``type='switch'``, one entry per parameter for
``type='switch_parameter_wise'``), never looks at a parameter, and never waits for the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .constants import constant
from .kernels import Rule

TIE = 1e-6
"""Scores this close to the largest (relative) count as equal to it: sums taken in another order must not pick
another candidate."""


def scores(rule: Rule, sums: Tensor, numel: Tensor) -> Tensor:
    """J of each candidate.

    Args:
        rule: the group's numbers.
        sums: ``(P, S)`` float64 partial sums over whole parameters, as ``Kernel.observe`` lays them out.
        numel: ``(P,)`` float64, the parameters' element counts.

    Returns:
        ``(P, K)`` float64.
    """
    K = len(rule.betas)
    gains = constant(rule.gains, sums.dtype, sums.device)
    if not rule.betas2:
        return gains * sums
    W = sums[:, K:] / numel.unsqueeze(1)
    if len(rule.betas2) > 1:
        W = W.index_select(1, constant(rule.second, torch.int64, sums.device))
    # a parameter without elements scores 0, not 0 / 0
    return torch.where(numel.unsqueeze(1) > 0, gains * sums[:, :K] / W.sqrt(), 0.0)


def best_candidate(scores: Tensor) -> Tensor:
    """Index of the largest score; among ties the lowest index. Of no meaning where a score is not finite.

    Args:
        scores: ``(..., K)`` float64.

    Returns:
        ``(...)`` int64.
    """
    largest = scores.amax(dim=-1, keepdim=True)
    tied = scores >= largest - TIE * largest.abs()
    return tied.to(torch.uint8).argmax(dim=-1)  # of equal values torch.argmax gives the first


class Choice(NamedTuple):
    """What is decided for the whole model (0-dim) or for each of P parameters (``(P,)``).

    Attributes:
        candidate: int64.
        negative_steps: int64, consecutive steps on which the applied candidate's raw score was negative.
        reset: bool, whether a soft reset is due; the count starts again there.
    """

    candidate: Tensor
    negative_steps: Tensor
    reset: Tensor


def choose(
    J: Tensor, averaged: Tensor, counts: Tensor, candidate: Tensor, negative_steps: Tensor, threshold: int
) -> Choice:
    """Choose by ``averaged``, and count by ``J``.

    Args:
        J: ``(..., K)`` float64, the raw scores.
        averaged: ``(..., K)`` float64, their moving average, or themselves.
        counts: ``(...)`` bool, False where this step says nothing (no gradient, or a score that is not finite): the
            previous choice stands there, and the count, too.
        candidate: ``(...)`` int64, the previous choice.
        negative_steps: ``(...)`` int64, the count so far.
        threshold: the count at which a soft reset is due.
    """
    new = torch.where(counts, best_candidate(averaged), candidate)
    applied = J.gather(-1, new.unsqueeze(-1)).squeeze(-1)
    counted = torch.where(applied < 0, negative_steps + 1, 0)
    reset = counted >= threshold
    counted = torch.where(reset, 0, counted)
    return Choice(new, torch.where(counts, counted, negative_steps), reset & counts)


def average(J: Tensor, counts: Tensor, J_bar: Tensor, J_ema: float) -> Tensor:
    """The moving average of ``J``.

    A score that is not finite would stay in it for ever: such a step leaves it as it is, as does one without gradients.
    """
    return torch.where(counts, J_ema * J_bar + (1 - J_ema) * J if J_ema else J, J_bar)
