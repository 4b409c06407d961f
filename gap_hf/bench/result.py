"""What was measured."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass
class Row:
    """One contender.

    Attributes:
        name: its name.
        seconds: of its step, one for each round (or process).
        ratios: to the baseline's step of the same round (or process).
        state_bytes: bytes of its state.
        counts: ``gap_hf.bench.counts.Counts`` as a dict; empty where nothing was counted.
    """

    name: str
    seconds: list[float]
    ratios: list[float]
    state_bytes: int
    counts: dict[str, int | None] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The median."""
        return float(np.median(self.ratios))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Of the ratios: a quarter of them lies below the first and a quarter above the second."""
        low, high = np.quantile(self.ratios, [0.25, 0.75])
        return float(low), float(high)

    @property
    def milliseconds(self) -> float:
        """Of the median step."""
        return 1e3 * float(np.median(self.seconds))


@dataclass
class Result:
    """The contenders on one workload.

    Attributes:
        workload: its name.
        about: what it is.
        tensors: how many there are.
        elements: how many they have together.
        dtype: of parameters and gradients.
        device: where they are, ``"cpu"`` or ``"cuda"``.
        candidates: K.
        machine: where and with what it was measured.
        rows: the contenders; the baseline is the first.
        absent: contenders that are not among them, and why.
        bytes_moved: what the baseline's step must at least read and write.
        copy_seconds: one for each copy of ``copy_bytes``.
        copy_bytes: read and written by one copy.
        processes: over how many processes the rows' numbers are medians; 1 where they are of one process's rounds.
        question: for ``--growth``, what is varied; empty otherwise.
        answer_to: for ``--growth``, the value that it has here.
    """

    workload: str
    about: str
    tensors: int
    elements: int
    dtype: str
    device: str
    candidates: int
    machine: dict[str, str]
    rows: list[Row]
    absent: dict[str, str]
    bytes_moved: int
    copy_seconds: list[float]
    copy_bytes: int
    processes: int = 1
    question: str = ""
    answer_to: str = ""

    @property
    def baseline(self) -> Row:
        """What the others are compared with."""
        return self.rows[0]

    @property
    def baseline_rate(self) -> float:
        """Bytes that the baseline's median step moves per second."""
        return self.bytes_moved / (1e-3 * self.baseline.milliseconds)

    @property
    def copy_rate(self) -> float:
        """Bytes that the median copy reads and writes per second."""
        return self.copy_bytes / float(np.median(self.copy_seconds))

    def to_json(self) -> dict[str, Any]:
        """For a file: the fields, and the numbers of the table."""
        fields = asdict(self)
        for row, numbers in zip(self.rows, fields["rows"], strict=True):
            numbers |= {"ratio": row.ratio, "quartiles": row.quartiles, "milliseconds": row.milliseconds}
            numbers["state_bytes_per_parameter"] = row.state_bytes / self.elements
        rates = {"baseline": self.baseline_rate, "copy": self.copy_rate}
        return {**fields, "bytes_per_second": rates}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Result":
        """What ``to_json`` was made of."""
        rows = [Row(*(row[name] for name in Row.__dataclass_fields__)) for row in fields["rows"]]
        return cls(**{**{name: fields[name] for name in cls.__dataclass_fields__}, "rows": rows})


def to_median(seconds: list[float]) -> list[float]:
    """The baseline's ratios: to its own median, so that its noise is seen."""
    return [s / float(np.median(seconds)) for s in seconds]


def merge(results: list[Result]) -> Result:
    """The same measurement in several processes: each process's medians are one round's numbers here.

    A contender that one of them lacks is left out of all.
    """
    first = results[0]
    rows: list[Row] = []
    for row in first.rows:
        same = [[other for other in result.rows if other.name == row.name] for result in results]
        if all(same):
            everywhere = [theirs[0] for theirs in same]
            seconds = [1e-3 * other.milliseconds for other in everywhere]
            ratios = [other.ratio for other in everywhere] if rows else to_median(seconds)
            rows.append(Row(row.name, seconds, ratios, row.state_bytes, row.counts))
    fields = {name: getattr(first, name) for name in Result.__dataclass_fields__}
    fields |= {
        "rows": rows,
        "absent": {name: why for result in results for name, why in result.absent.items()},
        "copy_seconds": [float(np.median(result.copy_seconds)) for result in results],
        "processes": len(results),
    }
    return Result(**fields)
