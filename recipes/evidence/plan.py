"""What is left to run: the missing runs of a contender's grid, which grows until its best learning rate is inside.

Learning rates are powers of 2 and are named by their exponents here.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import log2
from statistics import fmean

from .contenders import CONTENDERS, REFERENCE
from .studies import STUDIES
from .table import Key, Row, written

WIDTH = 2
"""A grid begins with the expected best learning rate and so many to each side."""
MOST = 14
"""It grows up to so many."""

Rectangle = tuple[list[int], list[float]]
"""Seeds and learning rates, each to be run with each."""


def exponent(lr: float) -> int:
    """Of a learning rate, which may have lost digits in a file."""
    return round(log2(lr))


def mean_losses(rows: Iterable[Row], seeds: Sequence[int]) -> dict[int, float]:
    """The mean loss by learning rate, ascending, of those that all seeds have."""
    by_lr: dict[int, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row.seed in seeds:
            by_lr[exponent(row.lr)][row.seed] = row.counted
    return {k: fmean(by_lr[k].values()) for k in sorted(by_lr) if len(by_lr[k]) == len(seeds)}


def best(rows: Iterable[Row], seeds: Sequence[int]) -> int | None:
    """The learning rate with the lowest mean loss, of those that all seeds have; None without any."""
    means = mean_losses(rows, seeds)
    return min(means, key=means.__getitem__) if means else None


def grid(study: str, contender: str, known: Mapping[Key, Row], seeds: Sequence[int]) -> list[int]:
    """The learning rates to run: the first ones, the one tuned for 0.9, and the neighbours of the best of those run."""
    about, its = STUDIES[study], CONTENDERS[contender]
    middle = (about.lr if its.comparable else 0) + its.shift[("adam", "sgdm").index(about.family)]
    own = [row for row in known.values() if row.contender == contender]
    ks = {*range(middle - WIDTH, middle + WIDTH + 1), *(exponent(row.lr) for row in own)}
    tuned = best([row for row in known.values() if row.contender == REFERENCE], seeds)
    if tuned is not None and its.comparable:
        ks.add(tuned)
    return grown(ks, own, seeds)


def grown(ks: set[int], own: Sequence[Row], seeds: Sequence[int]) -> list[int]:
    """The learning rates to run and, once all have been, the neighbours of the best one."""
    found = best(own, seeds)
    if found is not None and len(ks) < MOST and ks <= mean_losses(own, seeds).keys():
        ks = ks | {found - 1, found + 1}
    return sorted(ks)


def missing(study: str, contender: str, known: Mapping[Key, Row], seeds: Sequence[int]) -> list[Rectangle]:
    """The runs that there are no rows of."""
    lacking: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for k in grid(study, contender, known, seeds):
        lr = 2.0**k
        if without := tuple(seed for seed in seeds if (contender, seed, written(lr)) not in known):
            lacking[without].append(lr)
    return [(list(some), lrs) for some, lrs in lacking.items()]
