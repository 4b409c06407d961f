"""The results of a measurement."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass
class Row:
    """The measurements of one contender.

    Attributes:
        name: its name.
        seconds: the time of its step, one for each round (or process).
        ratios: each of these times, divided by that of the baseline's step in the same round (or process).
        state_bytes: the size of its state.
        counts: ``gap_hf.bench.counts.Counts`` as a dict; empty where nothing was counted.
        moved: the bytes that its step must move at least; None where that is not known.
    """

    name: str
    seconds: list[float]
    ratios: list[float]
    state_bytes: int
    counts: dict[str, int | None] = field(default_factory=dict)
    moved: float | None = None

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return float(np.median(self.ratios))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The quartiles of the ratios: a quarter of them lie below the first and a quarter above the second."""
        low, high = np.quantile(self.ratios, [0.25, 0.75])
        return float(low), float(high)

    @property
    def milliseconds(self) -> float:
        """The time of the median step in milliseconds."""
        return 1e3 * float(np.median(self.seconds))


@dataclass
class Result:
    """The measurements of all contenders on one workload.

    Attributes:
        workload: its name.
        about: its description.
        tensors: the number of its tensors.
        elements: the number of elements in all of them.
        dtype: the dtype of parameters and gradients.
        device: where they are, ``"cpu"`` or ``"cuda"``.
        candidates: K.
        machine: where and with what it was measured.
        rows: the contenders; the baseline is the first.
        absent: the contenders that have no row, and why.
        bytes_moved: what the baseline's step must at least read and write.
        copy_seconds: the time of each copy of ``copy_bytes``.
        copy_bytes: how many bytes one copy reads and writes.
        processes: how many processes the rows' numbers come from; 1 if they are the rounds of one process.
        question: for ``--growth``, what is varied; empty otherwise.
        answer_to: for ``--growth``, its value in this result.
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
        """The row that the others are compared with."""
        return self.rows[0]

    @property
    def baseline_rate(self) -> float:
        """The bytes per second that the baseline's median step moves."""
        return self.bytes_moved / (1e-3 * self.baseline.milliseconds)

    @property
    def copy_rate(self) -> float:
        """The bytes per second that the median copy reads and writes."""
        return self.copy_bytes / float(np.median(self.copy_seconds))

    def to_json(self) -> dict[str, Any]:
        """The fields and the numbers of the table, as written to a file."""
        fields = asdict(self)
        for row, numbers in zip(self.rows, fields["rows"], strict=True):
            numbers |= {"ratio": row.ratio, "quartiles": row.quartiles, "milliseconds": row.milliseconds}
            numbers["state_bytes_per_parameter"] = row.state_bytes / self.elements
        rates = {"baseline": self.baseline_rate, "copy": self.copy_rate}
        return {**fields, "bytes_per_second": rates}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Result":
        """Make the result again from what ``to_json`` returned."""
        rows = [Row(*(row[name] for name in Row.__dataclass_fields__)) for row in fields["rows"]]
        return cls(**{**{name: fields[name] for name in cls.__dataclass_fields__}, "rows": rows})


def to_median(seconds: list[float]) -> list[float]:
    """The baseline's ratios to its own median, which show its noise."""
    return [s / float(np.median(seconds)) for s in seconds]


def merge(results: list[Result]) -> Result:
    """Merge one measurement made in several processes: the medians of each process count as one round.

    A contender that is missing in one of the processes is left out.
    """
    first = results[0]
    rows: list[Row] = []
    for row in first.rows:
        same = [[other for other in result.rows if other.name == row.name] for result in results]
        if all(same):
            everywhere = [theirs[0] for theirs in same]
            seconds = [1e-3 * other.milliseconds for other in everywhere]
            ratios = [other.ratio for other in everywhere] if rows else to_median(seconds)
            rows.append(Row(row.name, seconds, ratios, row.state_bytes, row.counts, row.moved))
    fields = {name: getattr(first, name) for name in Result.__dataclass_fields__}
    fields |= {
        "rows": rows,
        "absent": {name: why for result in results for name, why in result.absent.items()},
        "copy_seconds": [float(np.median(result.copy_seconds)) for result in results],
        "processes": len(results),
    }
    return Result(**fields)
