"""The format of the choices file: one JSON line for each step, with the choice of every parameter.

```text
{"gap_hf": 3, "start": 0, "type": "switch_parameter_wise", "candidate": "beta1",
 "groups": [{"candidates": [{"label": "0.8", "value": 0.8, "family": "adam"}, ...],
             "parameters": ["layers.0.q_proj.lora_A", ...]}, ...]}
{"step": 1, "choice": ["0110...", ...], "margin": ["5c0-...", ...]}
{"step": 2, "choice": ["0010...", ...], "margin": ["4a13...", ...], "reset": [[0, 3]]}
```

``candidates`` lists each group's candidates (``gap_hf.candidate.Candidate``); ``candidate`` says what their values are:
beta1 or momentum. ``choice`` holds one string per group with one digit (base 36) per parameter. Where one choice is
made for the whole model (``'switch'``, ``'mix'``, ``'first'``, ``'random'``) it is one digit, and ``J`` holds the K raw
scores. ``margin`` says how clearly each choice won (``gap_hf.choices.margin``), in 35ths, with a ``-`` where there was
nothing to choose by; where there is ``J``, it follows from that. ``reset`` lists the (group, parameter) pairs whose
buffers were soft-reset; of one choice for all it is ``true``.

Of a mix, ``choice`` is the candidate with the largest weight. Constant weights stand in the header, as ``weights`` of
each group. Others stand in each line: ``weights`` holds K numbers or, where each parameter has its own, for each group
K strings with one digit per parameter, in 35ths.

``gap_hf.choices.writer`` writes the file, and only ever appends to it. A killed run leaves a file that can be read up
to the last step that was handed in (on an accelerator, up to the last log). A resumed run appends another header,
whose ``start`` says after which step the earlier lines no longer count.

Version 2 had no weights. In version 1 a candidate was its label alone: a number, or two with a slash between them.
``read_header`` reads all of them; a file may hold headers of several, if an old run was resumed.
"""

import math
from typing import Any, NamedTuple

from ..candidate import Candidate

FILENAME = "gap_choices.jsonl"
VERSION = 3
HEADER = b'{"gap_hf":'
"""How a header begins."""
TYPES = {
    "switch": False,
    "switch_parameter_wise": True,
    "mix": False,
    "mix_parameter_wise": True,
    "first": False,
    "random": False,
    "random_parameter_wise": True,
}
"""The types of which there can be a file, and for each whether every parameter has its own choice."""
MIXES = ("mix", "mix_parameter_wise")


class HeaderGroup(NamedTuple):
    """A parameter group in a header.

    Attributes:
        candidates: its candidates.
        parameters: its parameters' names.
        weights: the candidates' weights in a mix, if these are constant.
    """

    candidates: list[Candidate]
    parameters: list[str]
    weights: list[float] | None = None


class Header(NamedTuple):
    """The header line: what the lines below it are about.

    Attributes:
        start: the step after which earlier lines no longer count; 0 for a new run.
        type: one of ``TYPES``.
        candidate: what the candidates' values are: ``'beta1'`` or ``'momentum'``.
        groups: the groups that have parameters.
    """

    start: int
    type: str
    candidate: str
    groups: list[HeaderGroup]

    def to_json(self) -> dict[str, Any]:
        """The header as a line of the file, in the newest version."""
        groups = []
        for group in self.groups:
            found = {**group._asdict(), "candidates": [candidate._asdict() for candidate in group.candidates]}
            groups.append({key: value for key, value in found.items() if value is not None})
        return {"gap_hf": VERSION, **self._asdict(), "groups": groups}

    def continues(self, earlier: "Header") -> bool:
        """Whether lines under ``earlier`` and under this header can share a file: same type, labels and parameters."""
        return self._described() == earlier._described()

    def _described(self) -> tuple[str, list[tuple[list[str], list[str]]]]:
        # labels alone: version 1 rounded the values, and did not know the families
        return self.type, [([c.label for c in group.candidates], group.parameters) for group in self.groups]

    @property
    def per_parameter(self) -> bool:
        """Whether every parameter has its own choice."""
        return TYPES[self.type]

    @property
    def mixes(self) -> bool:
        """Whether candidates are applied together, with weights."""
        return self.type in MIXES


def entry(line: dict[str, Any], key: str, *kinds: type) -> Any:
    """Return ``line[key]``, which must be of one of ``kinds``.

    Raises:
        ValueError: the entry is missing, or is of another kind.
    """
    if key not in line:
        raise ValueError(f"it has no {key!r}")
    if type(line[key]) not in kinds:
        raise ValueError(f"its {key!r} is not {' or '.join(kind.__name__ for kind in kinds)}")
    return line[key]


def whole(line: dict[str, Any], key: str) -> int:
    """Return ``line[key]``, the number of a step. Raises ValueError if it is none."""
    number: int = entry(line, key, int)
    if not 0 <= number < 2**63:
        raise ValueError(f"its {key!r} is {number}")
    return number


def read_header(line: dict[str, Any]) -> Header:
    """Read the header from a line of version 1, 2 or 3.

    Raises:
        ValueError: it is of another version, or lacks something that rows and reports need.
    """
    version = line["gap_hf"]
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(f"format {version!r} is not known to this version of gap_hf")
    start, type_, name = whole(line, "start"), entry(line, "type", str), entry(line, "candidate", str)
    if type_ not in TYPES:
        raise ValueError(f"its type is {type_!r}")
    groups = entry(line, "groups", list)
    if not groups:
        raise ValueError("it has no groups")
    return Header(start, type_, name, [read_group(group, version, name) for group in groups])


def read_group(group: Any, version: int, name: str) -> HeaderGroup:
    """Read a parameter group of a header whose candidates' values are called ``name``. Raises ValueError."""
    if type(group) is not dict:
        raise ValueError("one of its groups is not a dict")
    found, parameters = entry(group, "candidates", list), entry(group, "parameters", list)
    if not all(type(text) is str for text in parameters):
        raise ValueError("its parameters are not all text")
    if not found:
        raise ValueError("its candidates are []")
    if version == 1:
        found = [upgraded_from_1(label, name) for label in found]
    candidates = [read_candidate(one) for one in found]
    weights = read_weights(entry(group, "weights", list), len(candidates)) if "weights" in group else None
    return HeaderGroup(candidates, parameters, weights)


def read_weights(found: list[Any], K: int) -> list[float]:
    """Read the weights of K candidates. Raises ValueError."""
    good = len(found) == K and all(type(w) in (int, float) and 0 <= w <= 1 for w in found)
    if not good or not 0.9 < sum(found) < 1.1:
        raise ValueError(f"its weights are {found!r}; expected {K} numbers >= 0 that add up to 1")
    return [float(w) for w in found]


def read_candidate(found: Any) -> Candidate:
    """Read a candidate of version 2. Raises ValueError."""
    if type(found) is not dict:
        raise ValueError("one of its candidates is not a dict")
    label, family = entry(found, "label", str), entry(found, "family", str)
    value = entry(found, "value", float, int, type(None))
    if value is not None and not math.isfinite(value):
        raise ValueError(f"the value of its candidate {label!r} is {value}")
    return Candidate(label, None if value is None else float(value), family)


FAMILIES = {"beta1": "adam", "momentum": "sgdm"}
"""The families that version 1 knew, by what it called a candidate."""


def upgraded_from_1(label: Any, name: str) -> dict[str, Any]:
    """Turn a candidate of version 1 into one of version 2; ``name`` takes the place of a family that isn't known.

    Raises:
        ValueError: its label is not a number, or a pair like ``'0.9/0.99'``.
    """
    if type(label) is not str:
        raise ValueError("its candidates are not all text")
    try:
        numbers = [float(part) for part in label.split("/")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 2 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"one of its candidates is {label!r}; expected a number, or a pair like '0.9/0.99'")
    return {"label": label, "value": numbers[0], "family": FAMILIES.get(name, name)}
