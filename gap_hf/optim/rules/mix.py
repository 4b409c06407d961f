"""The mix: all candidates at once, each with a weight, and each at the same gain for a constant gradient."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..uploads import constant
from .best import TIE, best_candidate
from .rule import Rule

BY_SCORE = "score"
"""The value of the option ``weights`` that has them follow the scores."""

WEIGHTS = f"a list of numbers >= 0, not all 0, or {BY_SCORE!r}"
"""What the option ``weights`` is expected to be, if it is given."""


class Mix(Rule):
    """Apply a weighted sum of all candidates' updates.

    The weights are constant, or at each step proportional to the scores, where negative scores count as 0. If no score
    is positive, all candidates point against the gradient, and the constant weights are used.
    """

    types: ClassVar = {"mix": False, "mix_parameter_wise": True}
    mixes = True
    remembers: ClassVar = ("last_weights",)

    def __init__(self, options: Mapping[str, Any], decays: Sequence[float]) -> None:
        given = options["weights"]
        self.scored = isinstance(given, str)
        self.check_weights(given, len(decays))  # something may have rewritten them
        self.weights = by_memory(decays) if given is None or self.scored else shares(given)

    @staticmethod
    def check_weights(given: Any, K: int) -> None:
        """Raise ValueError unless ``given`` are weights for K candidates."""
        if given is None or (isinstance(given, str) and given == BY_SCORE):
            return
        if not are_weights(given):
            raise ValueError(f"weights={given!r} is out of range; expected {WEIGHTS}")
        if len(given) != K:
            raise ValueError(f"weights={given!r} lists {len(given)} weights for {K} candidates; give one for each")

    @staticmethod
    def check(options: Mapping[str, Any], K: int) -> None:
        Mix.check_weights(options["weights"], K)
        if options["lr_modulation"] not in (False, "dc"):
            raise ValueError(
                f"lr_modulation={options['lr_modulation']!r} is for types that pick one candidate; a mix takes all of "
                "them at equal gain (lr_modulation='dc'). Leave it out"
            )

    def start(self) -> dict[str, Any]:
        assert self.weights is not None
        return {"last_choice": self.leading(), "last_weights": list(self.weights)}

    def leading(self) -> int:
        """The candidate with the largest constant weight."""
        assert self.weights is not None
        largest = max(self.weights)
        return next(j for j, weight in enumerate(self.weights) if weight >= largest - TIE * largest)

    def judge(self, scores: Tensor, kept: Mapping[str, Tensor], number: Tensor) -> dict[str, Tensor]:
        assert self.weights is not None
        fallback = constant(self.weights, torch.float64, scores.device)
        positive = scores.clamp(min=0)
        largest = positive.amax(dim=-1, keepdim=True)
        relative = positive / largest  # so that adding them up can't overflow
        weights = torch.where(largest > 0, relative / relative.sum(dim=-1, keepdim=True), fallback)
        # by the scores, whose order is that of the weights: dividing may round two of them together, or apart
        choice = torch.where(largest.squeeze(-1) > 0, best_candidate(scores), self.leading())
        return {"last_choice": choice, "last_weights": weights}


def is_mix(type_: Any) -> bool:
    """Whether ``type_`` is a value of the option ``type`` that stands for a mix."""
    return isinstance(type_, str) and type_ in Mix.types


def are_weights(value: Any) -> bool:
    """Whether ``value`` is a list of finite numbers >= 0, not all of them 0."""
    if not isinstance(value, (list, tuple)):
        return False
    numbers = all(isinstance(w, (int, float)) and not isinstance(w, bool) and 0 <= w <= 1e300 for w in value)
    return numbers and sum(map(float, value)) > 0


def by_memory(decays: Sequence[float]) -> tuple[float, ...]:
    """Weights proportional to sqrt(1 - decay^2), one over the norm of each candidate's filter: short memories lead."""
    return shares([math.sqrt(1 - decay**2) for decay in decays])


def shares(weights: Sequence[float]) -> tuple[float, ...]:
    """``weights`` divided by their sum."""
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)
