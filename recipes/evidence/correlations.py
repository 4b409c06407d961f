"""How much successive gradients have in common: the cosine of whole-model gradients some steps apart."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .plan import best
from .table import read, written
from .train import train

LAGS = (1, 5, 10, 20)
CONTENDERS = ("fixed_0.9", "fixed_0.5")
FILE = "correlations.csv"


class Correlation(NamedTuple):
    """The mean cosines of one run at its contender's best learning rate."""

    study: str
    contender: str
    seed: int
    lr: float
    cosines: list[float]


class Cosines:
    """Adds up the cosines of every step's gradients with those of the steps before."""

    def __init__(self) -> None:
        self.past: list[Tensor] = []
        self.totals: list[Tensor | float] = [0.0] * len(LAGS)
        self.counts = [0] * len(LAGS)

    def __call__(self, t: int, g: Tensor) -> None:
        self.past = [g.clone(), *self.past[: max(LAGS)]]
        for k, lag in enumerate(LAGS):
            if lag < len(self.past):
                cosine = torch.nn.functional.cosine_similarity(g, self.past[lag], dim=1)
                self.totals[k], self.counts[k] = self.totals[k] + cosine.double(), self.counts[k] + 1

    def means(self, run: int) -> list[float]:
        """By lag."""
        return [
            float(total[run]) / n if isinstance(total, Tensor) else 0.0
            for total, n in zip(self.totals, self.counts, strict=True)
        ]


def load(results: Path) -> list[Correlation]:
    """Those measured so far."""
    path = results / FILE
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Correlation(
                line["study"], line["contender"], int(line["seed"]), float(line["lr"]),
                [float(line[f"lag_{lag}"]) for lag in LAGS],
            )
            for line in csv.DictReader(file)
        ]  # fmt: skip


def save(rows: Sequence[Correlation], results: Path) -> None:
    """Write them all, sorted, in one go."""
    unfinished = results / f".{FILE}"
    with unfinished.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Correlation._fields[:-1], *(f"lag_{lag}" for lag in LAGS)])
        for row in sorted(rows):
            writer.writerow([row.study, row.contender, row.seed, written(row.lr), *map(written, row.cosines)])
    unfinished.replace(results / FILE)


def measure(study: str, contender: str, seeds: Sequence[int], results: Path) -> int:
    """Measure what is missing at the contender's best learning rate; return how many runs that were."""
    rows = load(results)
    k = best([row for row in read(study, results).values() if row.contender == contender], seeds)
    done = {row.seed for row in rows if (row.study, row.contender) == (study, contender)}
    lacking = [seed for seed in seeds if seed not in done]
    if k is not None and lacking:
        cosines = Cosines()
        train(study, contender, lacking, [2.0**k], watch=cosines)
        rows += [Correlation(study, contender, seed, 2.0**k, cosines.means(r)) for r, seed in enumerate(lacking)]
        save(rows, results)
    return len(lacking)
