"""Paired differences: two optimizers with the same seeds, and the 95 % interval of their mean difference.

A seed decides on the order of the data and on the initialization, which both sides share. So the differences vary less
than the losses do, and fewer seeds show more.
"""

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from scipy import stats

LEVEL = 0.95


class Difference(NamedTuple):
    """The mean of paired differences; below 0, the first side's loss is lower.

    Attributes:
        mean: the mean.
        half: half the width of its 95 % interval, by Student's t; None for a single pair, which has none.
        pairs: how many pairs there are.
    """

    mean: float
    half: float | None
    pairs: int

    @property
    def sign(self) -> int:
        """-1 if the interval lies below 0, 1 if it lies above, and 0 if it contains 0 or there is none."""
        if self.half is None or abs(self.mean) <= self.half:
            return 0
        return -1 if self.mean < 0 else 1

    @property
    def text(self) -> str:
        """The difference with its interval, as text: ``+0.0012 ± 0.0040``."""
        return f"{signed(self.mean)}" + ("" if self.half is None else f" ± {self.half:.4f}")

    @property
    def size(self) -> str:
        """The same without the sign."""
        return self.text[1:]


def difference(mine: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Return the mean of mine minus theirs, over the seeds that both have.

    Args:
        mine: losses by seed.
        theirs: the other losses by seed.

    Returns:
        The difference; None if they share no seed, or if one of the losses is not finite.
    """
    pairs = [(mine[seed], theirs[seed]) for seed in mine if seed in theirs]
    if not pairs or not all(math.isfinite(loss) for pair in pairs for loss in pair):
        return None
    apart = [one - other for one, other in pairs]
    half = None
    if len(apart) > 1:
        quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(apart) - 1))
        half = quantile * statistics.stdev(apart) / math.sqrt(len(apart))
    return Difference(statistics.fmean(apart), half, len(apart))


def signed(value: float) -> str:
    """Write a difference with its sign, without a negative zero."""
    return f"{round(value, 4) + 0.0:+.4f}"
