"""The results: one CSV file for each study, sorted, with a row for each run."""

import csv
import os
from collections.abc import Iterable
from math import inf, isfinite
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parents[2] / "docs" / "evidence" / "results"


class Row(NamedTuple):
    """One run.

    Attributes:
        study, contender, seed, lr: which run it is.
        loss: on held-out data, at the end; infinite if that is not a number.
        train: the mean training loss of the last tenth of the steps.
        start: the held-out loss of the starting weights.
        diverged: whether the run ended no better than it started.
        shares: on which share of the steps each candidate was chosen, or had the largest weight.
        weights: the mean weight of each candidate.
    """

    study: str
    contender: str
    seed: int
    lr: float
    loss: float
    train: float
    start: float
    diverged: bool
    shares: list[float]
    weights: list[float]

    @property
    def counted(self) -> float:
        """The loss that means are taken of: not above the starting weights', as one would have thrown the run away."""
        return min(self.loss, self.start) if isfinite(self.loss) else self.start


Key = tuple[str, int, str]
"""Contender, seed, learning rate as it is written."""


def written(number: float) -> str:
    """A number as in the files."""
    return f"{number if isfinite(number) else inf:.6g}"


def key(row: Row) -> Key:
    """What tells a study's runs apart."""
    return row.contender, row.seed, written(row.lr)


def read(study: str, results: Path = RESULTS) -> dict[Key, Row]:
    """A study's runs so far."""
    path = results / f"{study}.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [_parse(line) for line in csv.DictReader(file)]
    return {key(row): row for row in rows}


def add(study: str, rows: Iterable[Row], results: Path = RESULTS) -> None:
    """Put rows into a study's file, which is replaced in one go: a killed process leaves the old file or the new."""
    known = read(study, results)
    known.update((key(row), row) for row in rows)
    results.mkdir(parents=True, exist_ok=True)
    unfinished = results / f".{study}.csv.{os.getpid()}"
    with unfinished.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Row._fields[:-2], "smallest", *Row._fields[-2:]])
        for row in sorted(known.values(), key=lambda row: (row.contender, row.lr, row.seed)):
            smallest = written(row.shares[0]) if row.shares else ""
            lists = (" ".join(f"{x:.4g}" for x in values) for values in (row.shares, row.weights))
            numbers = (written(x) for x in (row.lr, row.loss, row.train, row.start))
            writer.writerow([row.study, row.contender, row.seed, *numbers, int(row.diverged), smallest, *lists])
    unfinished.replace(results / f"{study}.csv")


def _parse(line: dict[str, str]) -> Row:
    lr, loss, train, start = (float(line[name]) for name in ("lr", "loss", "train", "start"))
    shares, weights = ([float(x) for x in line[name].split()] for name in ("shares", "weights"))
    diverged = line["diverged"] == "1"
    return Row(line["study"], line["contender"], int(line["seed"]), lr, loss, train, start, diverged, shares, weights)
