"""Choices files by hand, written by the real writer."""

from pathlib import Path

from gap_hf.candidate import Candidate
from gap_hf.choices.format import FILENAME, Header, HeaderGroup
from gap_hf.choices.writer import ChoiceWriter

OLD = Path(__file__).parent / "written_by_0_2_0"
"""Files of version 1, each in a directory of its run (``record_runs.py``)."""

VERSION_2 = Path(__file__).parent / "written_in_version_2"
"""The same runs in files of version 2, which was never released."""


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
WISE_MIX = HEADER._replace(type="mix_parameter_wise")
MIX = SWITCH._replace(type="mix")
CONSTANT = MIX._replace(groups=[group._replace(weights=[0.3, 0.7]) for group in MIX.groups])


def write(path, header, rows) -> None:
    """Rows are (step, choices group by group, resets)."""
    writer = ChoiceWriter(path / FILENAME, header)
    for step, choices, resets in rows:
        writer.write(step, choices, resets, None)
    writer.close()


def write_mix(path, header, rows) -> None:
    """Rows are the weights group by group, one array for each step; the choices are the largest."""
    writer = ChoiceWriter(path / FILENAME, header)
    for step, weights in enumerate(rows, 1):
        writer.write(step, [group.argmax(axis=-1) for group in weights], [], None, None, weights)
    writer.close()


def write_three_steps(path) -> list[str]:
    write(path, HEADER, [(1, [[0, 1], [2]], []), (2, [[1, 1], [0]], [[0, 1], [1, 0]]), (3, [[1, 0], [1]], [])])
    return (path / FILENAME).read_text().splitlines(keepends=True)


def rewrite(path, lines) -> None:
    (path / FILENAME).write_text("".join(lines))
