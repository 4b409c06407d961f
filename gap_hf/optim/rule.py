"""Rules: how scores become the candidate that is applied."""

from abc import ABC, abstractmethod

from torch import Tensor

from .choice import best_candidate


class Rule(ABC):
    """A rule turns scores into a candidate. (Families can apply weights as well, see ``Family.apply``.)"""

    @abstractmethod
    def pick(self, scores: Tensor) -> Tensor:
        """Return the candidates, ``(...)`` int64, that follow from ``scores``, ``(..., K)`` float64 and finite."""


class Best(Rule):
    """The paper's rule: the candidate whose update is best aligned with the gradient (arXiv 2512.06370)."""

    def pick(self, scores: Tensor) -> Tensor:
        return best_candidate(scores)
