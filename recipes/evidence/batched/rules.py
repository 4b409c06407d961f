"""From scores to weights: the paper's pick, mixes, and controls.

All work on scores ``(R, Q, K)`` in float64, with Q = 1 for one decision for all parameters, or Q = P for one each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

TIE = 1e-6


class Rule(ABC):
    """How scores become weights."""

    @abstractmethod
    def weights(self, J: Tensor) -> Tensor:
        """The weights ``(R, Q, K)``, which add up to 1."""


class Pick(Rule):
    """The paper's: the candidate with the largest score, the lowest of them in a tie."""

    def weights(self, J: Tensor) -> Tensor:
        largest = J.amax(-1, keepdim=True)
        tied = J.ge(largest - TIE * largest.abs())
        best = tied.to(torch.uint8).argmax(-1)
        return one_hot(best, J.shape[-1])


class First(Rule):
    """The first candidate, whatever the scores."""

    def weights(self, J: Tensor) -> Tensor:
        return one_hot(torch.zeros(J.shape[:-1], dtype=torch.int64), J.shape[-1])


class Random(Rule):
    """Any candidate, whatever the scores; runs of one seed draw the same."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = {seed: torch.Generator().manual_seed(seed) for seed in seeds}
        self.rows = torch.tensor([list(self.generators).index(seed) for seed in seeds])

    def weights(self, J: Tensor) -> Tensor:
        _, Q, K = J.shape
        drawn = [torch.randint(K, (Q,), generator=generator) for generator in self.generators.values()]
        return one_hot(torch.stack(drawn)[self.rows], K)


class ByScore(Rule):
    """Proportional to the positive scores; constant weights where there is none."""

    def __init__(self, betas: Sequence[float]) -> None:
        self.constant = constant_weights(betas)

    def weights(self, J: Tensor) -> Tensor:
        positive = J.clamp(min=0)
        total = positive.sum(-1, keepdim=True)
        return torch.where(total > 0, positive / total, self.constant)


def one_hot(index: Tensor, K: int) -> Tensor:
    """Weight 1 for the candidate with this index."""
    return torch.nn.functional.one_hot(index, K).double()


def constant_weights(betas: Sequence[float]) -> Tensor:
    """Weights proportional to sqrt(1 - beta^2)."""
    norms = torch.tensor([sqrt(1 - beta**2) for beta in betas], dtype=torch.float64)
    return norms / norms.sum()


class Decided(NamedTuple):
    """What a step applies.

    Attributes:
        weights: ``(R, Q, K)``.
        resets: ``(R, Q)``, where a soft reset is due; None if it can't be.
    """

    weights: Tensor
    resets: Tensor | None


class Decider(ABC):
    """Decides each step's weights, and adds up what it decided.

    Attributes:
        picked, weight: for each candidate, on how many steps it had the largest weight, and its weights added up.
        last: what was decided last.
    """

    def __init__(self) -> None:
        self.picked: Tensor | float = 0.0
        self.weight: Tensor | float = 0.0
        self.last: Tensor | None = None

    def __call__(self, g: Tensor, scores: Callable[[], Tensor]) -> Decided:
        """Decide; ``scores`` computes ``(R, P, K)`` where they are needed."""
        decided = self.decide(g, scores)
        self.last = decided.weights
        self.picked = self.picked + one_hot(decided.weights.argmax(-1), decided.weights.shape[-1]).mean(1)
        self.weight = self.weight + decided.weights.mean(1)
        return decided

    @abstractmethod
    def decide(self, g: Tensor, scores: Callable[[], Tensor]) -> Decided:
        """Decide without adding up."""


class Constant(Decider):
    """The same weights at every step; no scores, no resets."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.fixed = weights.double()

    def decide(self, g: Tensor, scores: Callable[[], Tensor]) -> Decided:
        return Decided(self.fixed.expand(len(g), 1, -1), None)


class Scored(Decider):
    """Weights from scores by a rule, with the moving average of the scores and the soft resets of the paper.

    The raw score that counts for the resets is that of what is applied: the sum of w_j J_j. Where a score is not finite
    the previous decision stands, and neither average nor count moves.
    """

    def __init__(self, rule: Rule, per_parameter: bool, J_ema: float = 0.0, threshold: int = 10) -> None:
        super().__init__()
        self.rule, self.per_parameter, self.J_ema, self.threshold = rule, per_parameter, J_ema, threshold
        self.averaged: Tensor | None = None
        self.negative: Tensor | None = None

    def decide(self, g: Tensor, scores: Callable[[], Tensor]) -> Decided:
        J = scores()
        if not self.per_parameter:
            J = J.sum(1, keepdim=True)
        if self.averaged is None or self.negative is None or self.last is None:
            self.averaged, self.negative = torch.zeros_like(J), torch.zeros(J.shape[:2], dtype=torch.int64)
            self.last = one_hot(torch.zeros(J.shape[:2], dtype=torch.int64), J.shape[-1])
        counts = J.isfinite().all(-1)
        averaged = self.J_ema * self.averaged + (1 - self.J_ema) * J if self.J_ema else J
        self.averaged = torch.where(counts[..., None], averaged, self.averaged)
        weights = torch.where(counts[..., None], self.rule.weights(self.averaged), self.last)
        applied = torch.where(weights > 0, weights * J, 0).sum(-1)
        counted = torch.where(applied < 0, self.negative + 1, 0)
        resets = counts & (counted >= self.threshold)
        self.negative = torch.where(counts, torch.where(resets, 0, counted), self.negative)
        return Decided(weights, resets)


class Guard(Decider):
    """Constant weights, which move to a longer memory while successive gradients point against each other.

    With c the moving average (0.9) of cos(g_t, g_(t-1)), a share clip(-2 c, 0, 1) of the first candidate's weight, or
    of all weights, goes to the last candidate.
    """

    def __init__(self, weights: Tensor, only_first: bool) -> None:
        super().__init__()
        self.fixed, self.only_first = weights.double(), only_first
        self.previous: Tensor | None = None
        self.cosine: Tensor | None = None

    def decide(self, g: Tensor, scores: Callable[[], Tensor]) -> Decided:
        if self.cosine is None or self.previous is None:
            self.cosine = torch.zeros(len(g), dtype=torch.float64)
        else:
            cosine = torch.nn.functional.cosine_similarity(g, self.previous, dim=1).double()
            self.cosine = 0.9 * self.cosine + 0.1 * cosine.nan_to_num()
        self.previous = g.clone()
        moved = (-2 * self.cosine).clamp(0, 1)[:, None]
        kept = self.fixed.expand(len(g), -1).clone()
        if self.only_first:
            taken = kept[:, :1] * moved
            kept[:, :1] -= taken
        else:
            taken = moved
            kept = kept * (1 - moved)
        kept[:, -1:] += taken
        return Decided(kept[:, None], None)
