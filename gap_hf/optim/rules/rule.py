"""``Rule``: how scores become what is applied."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor


class Rule(ABC):
    """A rule turns the candidates' scores into a candidate, or into a weight for each.

    An instance is made from a group's options, and again whenever these have changed; it keeps nothing itself.

    Attributes:
        types: the values of the option ``type`` that stand for the rule, and for each of them whether every parameter
            has its own choice.
        mixes: whether it applies all candidates at once, each with a weight, instead of one.
        remembers: what it keeps from step to step, beside ``last_choice``.
        scored: whether it needs scores. A rule that does without, and so without any reduction, has constant
            ``weights``.
        weights: if it mixes, K weights that add up to 1: constant ones, or those that it falls back on where the scores
            say nothing.

    Args:
        options: the group's options.
        decays: the candidates' K decay rates of the first moment.
    """

    types: ClassVar[Mapping[str, bool]]
    mixes: ClassVar[bool] = False
    remembers: ClassVar[tuple[str, ...]] = ()
    scored: bool = True
    weights: tuple[float, ...] | None = None

    def __init__(self, options: Mapping[str, Any], decays: Sequence[float]) -> None:
        return

    @staticmethod  # noqa: B027
    def check(options: Mapping[str, Any], K: int) -> None:
        """Raise ValueError if an option of the rule's own does not fit K candidates."""

    def start(self) -> dict[str, Any]:
        """What one choice remembers before the first step: ``last_choice`` and what ``remembers`` lists."""
        return {"last_choice": 0}

    @abstractmethod
    def judge(self, scores: Tensor, kept: Mapping[str, Tensor], number: Tensor) -> dict[str, Tensor]:
        """Decide.

        Args:
            scores: ``(..., K)`` float64, finite wherever the result is used.
            kept: what is remembered of the step before, by name.
            number: ``(...)`` int64, a number that tells each choice from all others of the step.

        Returns:
            ``last_choice``, ``(...)`` int64, and what ``remembers`` lists. ``last_weights``, ``(..., K)`` float64, is
            what a mix applies.
        """
