"""From scores to what is applied: values that are not finite, moving averages, and hysteresis.

Everything works on float64 tensors of any leading shape (none for one choice for all, one entry per parameter where
each has its own), never looks at a parameter, and never waits for the device.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .rules.rule import Rule


class Choice(NamedTuple):
    """The choice for the whole model (0-dim) or for each of P parameters (``(P,)``).

    Attributes:
        kept: ``last_choice`` and ``negative_steps`` (consecutive steps on which the raw score of what was applied was
            negative), both int64, and what the rule remembers.
        reset: bool, whether a soft reset is due; the count starts again there.
    """

    kept: dict[str, Tensor]
    reset: Tensor


def choose(
    rule: Rule,
    J: Tensor,
    averaged: Tensor,
    counts: Tensor,
    kept: Mapping[str, Tensor],
    number: Tensor,
    threshold: int,
) -> Choice:
    """Decide by ``averaged``, and count steps against the gradient by ``J``.

    Args:
        rule: the rule that decides.
        J: ``(..., K)`` float64, the raw scores.
        averaged: ``(..., K)`` float64, their moving average, or the same scores again.
        counts: ``(...)`` bool, False where this step says nothing (no gradient, or a score that is not finite), so
            that everything stays as it was at the step before.
        kept: what is remembered of the step before.
        number: see ``Rule.judge``.
        threshold: the count at which a soft reset is due.
    """
    new = {
        key: torch.where(counts if value.ndim == counts.ndim else counts.unsqueeze(-1), value, kept[key])
        for key, value in rule.judge(averaged, kept, number).items()
    }
    if "last_weights" in new:
        applied = (new["last_weights"] * J).sum(dim=-1)
    else:
        applied = J.gather(-1, new["last_choice"].unsqueeze(-1)).squeeze(-1)
    counted = torch.where(applied < 0, kept["negative_steps"] + 1, 0)
    reset = counted >= threshold
    counted = torch.where(reset, 0, counted)
    new["negative_steps"] = torch.where(counts, counted, kept["negative_steps"])
    return Choice(new, reset & counts)


def average(J: Tensor, counts: Tensor, J_bar: Tensor, J_ema: float) -> Tensor:
    """Update the moving average of ``J``.

    A score that is not finite would stay in it for ever, so such a step leaves the average as it is. So does a step
    without gradients.
    """
    return torch.where(counts, J_ema * J_bar + (1 - J_ema) * J if J_ema else J, J_bar)
