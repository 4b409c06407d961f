"""Choices files by hand, written by the real writer."""

from pathlib import Path

from gap_hf.candidate import Candidate
from gap_hf.choices.format import FILENAME, Header, HeaderGroup
from gap_hf.choices.writer import ChoiceWriter

OLD = Path(__file__).parent / "written_by_0_2_0"
"""Files of version 1, each in a directory of its run (``record_runs.py``)."""


def adams(*labels: str) -> list[Candidate]:
    """Adam's candidates with these labels: ``0.9``, ``0.9/0.99``."""
    return [Candidate(label, float(label.partition("/")[0]), "adam") for label in labels]


HEADER = Header(
    start=0,
    type="switch_parameter_wise",
    candidate="beta1",
    groups=[
        HeaderGroup(adams("0.8", "0.99"), ["a.weight", "b.weight"]),
        HeaderGroup(adams("0.5", "0.9", "0.95"), ["a.bias"]),
    ],
)
SWITCH = HEADER._replace(
    type="switch", groups=[group._replace(candidates=adams("0.8", "0.99")) for group in HEADER.groups]
)


def write(path, header, rows) -> None:
    """Rows are (step, choices group by group, resets)."""
    writer = ChoiceWriter(path / FILENAME, header)
    for step, choices, resets in rows:
        writer.write(step, choices, resets, None)
    writer.close()


def write_three_steps(path) -> list[str]:
    write(path, HEADER, [(1, [[0, 1], [2]], []), (2, [[1, 1], [0]], [[0, 1], [1, 0]]), (3, [[1, 0], [1]], [])])
    return (path / FILENAME).read_text().splitlines(keepends=True)


def rewrite(path, lines) -> None:
    (path / FILENAME).write_text("".join(lines))
