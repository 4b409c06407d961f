"""Read the choices file (``gap_hf.choices.format``)."""

import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..candidate import Candidate
from .digits import read_digits, read_margins
from .format import FILENAME, HEADER, TYPES, Header, HeaderGroup, entry, read_header, read_weights, whole
from .margin import margin

logger = logging.getLogger(__name__)


@dataclass
class Choices:
    """A choices file in memory, with T steps and P parameters (P = 1, "all parameters", where one choice is for all).

    Attributes:
        type: the optimizer's ``type``.
        candidate: what the candidates' values are: ``'beta1'`` or ``'momentum'``.
        steps: ``(T,)`` int, ascending.
        choices: ``(T, P)`` int, the index of the applied candidate; of a mix, the one with the largest weight.
        parameters: the P parameters' names.
        candidates: for each parameter its K candidates.
        resets: the (step, parameter) pair of every soft reset.
        margins: ``(T, P)`` float, how clearly the choice won, from 0 (a draw) to 1 (the others point against the
            gradient), below 0 where a moving average chose another candidate than the step's best; NaN where the
            margin is not known.
        damaged: the numbers of the lines that could not be read, and why; the steps of these lines are missing.
        weights: ``(T, P, K)`` float32, the candidates' weights in a mix, 0 for candidates that a parameter does not
            have; None for types that pick one.
    """

    type: str
    candidate: str
    steps: np.ndarray
    choices: np.ndarray
    parameters: list[str]
    candidates: list[list[Candidate]]
    resets: list[tuple[int, int]]
    margins: np.ndarray
    damaged: dict[int, str] = field(default_factory=dict)
    weights: np.ndarray | None = None

    @property
    def per_parameter(self) -> bool:
        """Whether every parameter has its own choice."""
        return TYPES[self.type]

    @property
    def labels(self) -> list[list[str]]:
        """The labels of each parameter's K candidates."""
        return [[candidate.label for candidate in one] for one in self.candidates]


def read_choices(path: str | Path) -> Choices:
    """Read a choices file, or the one in a run directory.

    A damaged line costs its step, and a damaged header the steps up to the next header; a warning names the lines.

    Raises:
        FileNotFoundError: there is no choices file.
        ValueError: the file is not a choices file, or holds no step that can be read.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILENAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. A run with a gap optimizer other than type=default writes {FILENAME} into its "
            "output_dir."
        )
    content = path.read_bytes()
    lines = content.split(b"\n")
    found = Lines()
    for number, raw in enumerate(lines, 1):
        if raw:
            found.take(number, raw)
    found.damaged.pop(len(lines), None)  # a killed run's unfinished last line
    header, rows, damaged = found.header, found.rows, {number: why for number, (_, why) in found.damaged.items()}
    if b'"gap_hf"' not in content and (damaged or not HEADER.startswith(lines[-1])):
        raise ValueError(f"{path} is not a choices file" + (f" ({listed(damaged)})" if damaged else ""))
    if header is None or not rows:
        raise ValueError(f"{path} holds no steps " + (f"that can be read ({listed(damaged)})" if damaged else "yet"))
    if damaged:
        logger.warning("%s: lines that can't be read are left out (%s)", path, listed(damaged))
    steps = sorted(rows)
    together, groups = not header.per_parameter, header.groups
    return Choices(
        type=header.type,
        candidate=header.candidate,
        steps=np.array(steps),
        choices=np.stack([rows[step].choices for step in steps]),
        parameters=["all parameters"] if together else [name for group in groups for name in group.parameters],
        candidates=[groups[0].candidates] if together else [g.candidates for g in groups for _ in g.parameters],
        resets=[(step, parameter) for step in steps for parameter in rows[step].resets],
        margins=np.stack([rows[step].margins for step in steps]),
        damaged=damaged,
        weights=np.stack([rows[step].weights for step in steps]) if header.mixes else None,
    )


def listed(damaged: dict[int, str], most: int = 3) -> str:
    """List the first damaged lines with the reasons, and say how many more there are."""
    first = [f"line {number}: {why}" for number, why in list(damaged.items())[:most]]
    more = len(damaged) - len(first)
    return "; ".join(first) + (f"; and {more} more" if more else "")


class Row(NamedTuple):
    """One step: each parameter's choice, margin and weights (none, if one is picked), and which ones were reset."""

    choices: np.ndarray
    margins: np.ndarray
    resets: list[int]
    weights: np.ndarray


def group_names(path: str | Path) -> list[list[str]]:
    """Return the names of the parameters of each group that has any, by a choices file or the one in a run directory.

    Raises:
        FileNotFoundError: there is no choices file.
        ValueError: no header in it can be read.
    """
    path = Path(path)
    found = Lines()
    for number, raw in enumerate((path / FILENAME if path.is_dir() else path).read_bytes().splitlines(), 1):
        found.take(number, raw)
    if found.header is None:
        raise ValueError(f"{path} has no header that can be read")
    return [group.parameters for group in found.header.groups]


class Lines:
    """The content of a choices file, put together line by line.

    Attributes:
        header: the last header that could be read.
        rows: the steps that count, by number.
        damaged: for each line that could not be read, its step, if that is known, and the reason.
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self.rows: dict[int, Row] = {}
        self.damaged: dict[int, tuple[int, str]] = {}
        self.lost: str | None = "no header"
        """Why the header of the lines that come now is not known."""
        self.last = 0
        """The last step that could be read."""
        self.doubtful = False
        """Whether a damaged line may have been a header."""

    def take(self, number: int, raw: bytes) -> None:
        """Take in the line ``number``, or note why it can't be read."""
        step = self.last + 1
        try:
            line = parse(raw)
            if "gap_hf" in line:
                self.begin(read_header(line))
                return
            found = line["step"] if type(line.get("step")) is int else step
            if self.lost is None and self.doubtful and found <= self.last:
                self.lost = f"it goes back to step {found}: the header before it is damaged"
            if self.header is None or self.lost is not None:
                step = found
                raise ValueError(self.lost)
            row = decode_row(self.header, line)
            self.last = whole(line, "step")
            self.rows[self.last] = row
        except (ValueError, TypeError, OverflowError) as error:
            self.damaged[number] = step, str(error)
            if b'"gap_hf"' in raw:
                self.lost = f"its header, line {number}, can't be read"
            self.doubtful = True

    def begin(self, header: Header) -> None:
        """Continue under another header, of a resumed run: earlier steps after its ``start`` no longer count."""
        start = header.start
        if self.header is not None and not header.continues(self.header):
            self.rows, self.damaged = {}, {}
        self.rows = {step: row for step, row in self.rows.items() if step <= start}
        self.damaged = {number: found for number, found in self.damaged.items() if found[0] <= start}
        self.header, self.lost, self.last, self.doubtful = header, None, start, False


def parse(raw: bytes) -> dict[str, Any]:
    """Read the JSON object in a line.

    Raises:
        ValueError: the line holds no JSON object.
    """
    try:
        line = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(line, dict):
        raise ValueError("not a line of a choices file")
    return line


def decode_row(header: Header, line: dict[str, Any]) -> Row:
    """Read the line of one step; its parameters are numbered through all groups.

    Raises:
        ValueError: the line does not fit the header.
    """
    together = not header.per_parameter
    groups = header.groups[:1] if together else header.groups
    sizes = [1 if together else len(group.parameters) for group in groups]
    choices = [read_digits(text) for text in texts(line, "choice", sizes, together)]
    for group, numbers in zip(groups, choices, strict=True):
        if numbers.max(initial=0) >= len(group.candidates):
            raise ValueError(f"it chooses candidate {numbers.max()} of {len(group.candidates)}")
    if header.mixes:
        margins = [np.full(size, math.nan) for size in sizes]  # nothing wins
    elif together:
        margins = [scored_margin(line, len(groups[0].candidates), int(choices[0][0]))]
    elif "margin" in line:
        margins = [read_margins(text) for text in texts(line, "margin", sizes)]
    else:
        margins = [np.full(size, math.nan) for size in sizes]
    pairs = [] if not line.get("reset") else [[0, 0]] if together else entry(line, "reset", list)
    for g, i in pairs:
        if not (type(g) is type(i) is int and 0 <= g < len(sizes) and 0 <= i < sizes[g]):
            raise ValueError("it resets a parameter that the header does not have")
    weights = weights_of(header, groups, sizes, line) if header.mixes else np.empty(0, np.float32)
    return Row(np.concatenate(choices), np.concatenate(margins), [sum(sizes[:g]) + i for g, i in pairs], weights)


def weights_of(header: Header, groups: list[HeaderGroup], sizes: list[int], line: dict[str, Any]) -> np.ndarray:
    """Return the weights of a mix in one step, ``(P, K)`` float32, from its line or else from the header.

    Raises:
        ValueError: neither has weights that fit.
    """
    K = max(len(group.candidates) for group in groups)
    table = np.zeros((sum(sizes), K), np.float32)
    found = entry(line, "weights", list) if "weights" in line else None
    if found is not None and header.per_parameter and len(found) != len(groups):
        raise ValueError(f"its 'weights' are of {len(found)} groups, the header has {len(groups)}")
    begin = 0
    for g, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        mine, k = table[begin : begin + size], len(group.candidates)
        begin += size
        if found is None and group.weights is None:
            raise ValueError("it has no 'weights', and neither has the header")
        if found is None:
            mine[:, :k] = group.weights
        elif not header.per_parameter:
            mine[:, :k] = read_weights(found, k)
        else:
            columns = texts({"weights": found[g]}, "weights", [size] * k)
            mine[:, :k] = np.stack([read_digits(text) for text in columns], axis=1)
            totals = mine.sum(axis=1, keepdims=True)
            if not totals.all():
                raise ValueError("its 'weights' of a parameter are all 0")
            mine /= totals  # each was rounded by itself
    return table


def texts(line: dict[str, Any], key: str, sizes: list[int], alone: bool = False) -> list[str]:
    """Read one text per group, with a character per parameter; ``alone`` says that there is one text, not a list.

    Raises:
        ValueError: the entry is something else.
    """
    found = [entry(line, key, str)] if alone else entry(line, key, list)
    lengths = [len(text) if type(text) is str else None for text in found]
    if lengths != sizes:
        raise ValueError(f"its {key!r} is of {lengths} parameters, the header's groups have {sizes}")
    return found


def scored_margin(line: dict[str, Any], K: int, choice: int) -> np.ndarray:
    """Return the margin of ``choice``, ``(1,)``, from a line's K scores; NaN if the line has none."""
    J = entry(line, "J", list) if "J" in line else [None] * K
    if len(J) != K:
        raise ValueError(f"it has {len(J)} scores for {K} candidates")
    if not all(score is None or type(score) in (int, float) for score in J):
        raise ValueError("its scores are not all numbers")
    values = np.array([math.nan if score is None else float(score) for score in J])
    return margin(values, choice).reshape(1)
