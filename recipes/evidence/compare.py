"""Comparisons in pairs: the same seed has the same start and the same batches for every contender."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from .contenders import CONTENDERS, FIXED, REFERENCE
from .plan import exponent
from .table import RESULTS, Row, read

FIXED_NAMES = [f"fixed_{beta:g}" for beta in FIXED]
TWO_SIDED_95 = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
]  # fmt: skip
"""Student's t for 1, 2, ... degrees of freedom."""


class Interval(NamedTuple):
    """A mean difference with its paired 95 % t-interval; ``half`` is NaN for a single seed."""

    mean: float
    half: float
    seeds: int

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        if self.seeds == 1:
            return f"{self.mean:+.3f} (1 seed)"
        return f"{self.mean:+.3f} ± {self.half:.3f}{'*' if self.clear else ''}"


Losses = Mapping[int, float]
"""By seed."""


def paired(a: Losses, b: Losses) -> Interval | None:
    """``a`` minus ``b`` over the seeds that both have; None if there are none."""
    differences = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    if not differences:
        return None
    n = len(differences)
    if n == 1:
        return Interval(differences[0], float("nan"), 1)
    t = TWO_SIDED_95[n - 2] if n - 2 < len(TWO_SIDED_95) else 1.96 + 2.5 / (n - 1)
    return Interval(fmean(differences), t * stdev(differences) / sqrt(n), n)


class Best(NamedTuple):
    """A contender at the learning rate with its lowest mean loss.

    Attributes:
        k: the learning rate is 2^k.
        mean: the mean loss.
        losses: by seed.
        edge: whether it is the lowest or the highest that was run.
        diverged: how many of the runs ended no better than they started.
    """

    k: int
    mean: float
    losses: Losses
    edge: bool
    diverged: int


class Results:
    """The runs of one study, by contender and learning rate."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows: dict[str, dict[int, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
        for row in rows:
            self.rows[row.contender][exponent(row.lr)][row.seed] = row

    def contenders(self) -> list[str]:
        """Those with runs, in the order of the list of contenders."""
        return [name for name in CONTENDERS if name in self.rows]

    def grid(self, contender: str) -> list[int]:
        """The learning rates that were run with as many seeds as any."""
        by_lr = self.rows.get(contender, {})
        most = max((len(some) for some in by_lr.values()), default=0)
        return sorted(k for k, some in by_lr.items() if len(some) == most)

    def at(self, contender: str, k: int) -> Losses:
        """The losses at a learning rate."""
        runs = self.rows.get(contender, {}).get(k, {})
        return {seed: row.counted for seed, row in runs.items()}

    def best(self, contender: str) -> Best | None:
        """The contender at its own best learning rate."""
        if not (ks := self.grid(contender)):
            return None
        means = {k: fmean(self.at(contender, k).values()) for k in ks}
        k = min(means, key=means.__getitem__)
        diverged = Counter(row.diverged for row in self.rows[contender][k].values())[True]
        return Best(k, means[k], self.at(contender, k), k in (ks[0], ks[-1]), diverged)

    def best_fixed(self) -> str | None:
        """The fixed beta1 with the lowest mean loss, each at its own best learning rate."""
        found = {name: best.mean for name in FIXED_NAMES if (best := self.best(name))}
        return min(found, key=found.__getitem__) if found else None

    # ---------------------------------------------------------------- comparisons
    def regret(self, contender: str) -> Interval | None:
        """Against the best fixed beta1, both at their own best learning rates."""
        name = self.best_fixed()
        return None if name is None else self.against(contender, name)

    def against(self, contender: str, other: str) -> Interval | None:
        """Against another contender, both at their own best learning rates."""
        ours, theirs = self.best(contender), self.best(other)
        return None if ours is None or theirs is None else paired(ours.losses, theirs.losses)

    def at_tuned(self, contender: str, other: str = REFERENCE) -> Interval | None:
        """Against another contender, both at the learning rate tuned for 0.9; None where lr means something else."""
        tuned = self.best(REFERENCE)
        if tuned is None or not CONTENDERS[contender].comparable:
            return None
        return paired(self.at(contender, tuned.k), self.at(other, tuned.k))

    def share(self, contender: str, k: int, candidate: int = 0) -> float | None:
        """The mean share of a candidate at a learning rate."""
        runs = self.rows.get(contender, {}).get(k, {})
        shares = [row.shares[candidate] for row in runs.values() if len(row.shares) > candidate]
        return fmean(shares) if shares else None


def load(studies: Iterable[str], results: Path = RESULTS) -> dict[str, Results]:
    """The studies that there are results of."""
    found = {study: read(study, results) for study in studies}
    return {study: Results(rows.values()) for study, rows in found.items() if rows}
