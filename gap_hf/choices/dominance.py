"""Notice that one candidate is applied nearly always: then there is hardly a choice."""

import logging
from collections.abc import Sequence

import numpy as np

from ..candidate import Candidate

logger = logging.getLogger(__name__)

STRETCH = 100
"""Steps in a row that are looked at together."""

NEARLY_ALWAYS = 0.95
"""The share of all choices in a stretch that is worth a message."""


class Dominance:
    """Says once, in one line, that a single candidate does nearly all of the work.

    Args:
        candidates: each group's candidates.
        counts: how many parameters each group has.
        name: what a candidate's value is called.
        speaks: whether it says anything.
    """

    def __init__(
        self, candidates: Sequence[Sequence[Candidate]], counts: Sequence[int], name: str, speaks: bool
    ) -> None:
        self.candidates, self.counts, self.name = candidates, counts, name
        self.speaks = speaks and max(map(len, candidates), default=0) > 1
        self.begin()

    def begin(self) -> None:
        """Begin another stretch."""
        self.steps = 0
        self.chosen: dict[Candidate, int] = {}

    def count(self, step: int, choices: Sequence[np.ndarray]) -> None:
        """Take in the choices of a step, each group's."""
        if not self.speaks:
            return
        for g, mine in enumerate(choices):
            times = self.counts[g] if mine.ndim == 0 else 1
            for candidate, n in zip(self.candidates[g], np.bincount(mine.reshape(-1)).tolist(), strict=False):
                self.chosen[candidate] = self.chosen.get(candidate, 0) + times * n
        self.steps += 1
        if self.steps < STRETCH:
            return
        leader, most = max(self.chosen.items(), key=lambda item: item[1])
        share = most / sum(self.chosen.values())
        if share > NEARLY_ALWAYS:
            self.speaks = False
            self.tell(step, leader, share)
        self.begin()

    def tell(self, step: int, leader: Candidate, share: float) -> None:
        """Say it, and what to try instead."""
        what, advice = leader.label, ""
        if leader.value is not None:
            what = f"{self.name}={leader.label}"
            option = "betas" if self.name == "beta1" else self.name
            advice = (
                f"Fixed to that value, optim_args='type=default,{option}={leader.label}' would most likely do nearly "
                "the same with less memory; a mix (optim='gap_adamw_mix', 'gap_sgdm_mix') has nothing to choose. "
            )
        logger.warning(
            "in the %d steps up to step %d, %s made up %.0f %% of all choices. %sdocs/howto/candidates.md says when "
            "choosing pays. This is said once.",
            STRETCH,
            step,
            what,
            100 * share,
            advice,
        )
