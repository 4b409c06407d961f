"""The choices file: every step's choice of every parameter, one JSON line each.

```text
{"gap_hf": 1, "start": 0, "type": "switch_parameter_wise", "candidate": "beta1",
 "groups": [{"candidates": ["0.8", "0.99"], "parameters": ["layers.0.q_proj.lora_A", ...]}, ...]}
{"step": 1, "choice": ["0110...", ...], "margin": ["5c0-...", ...]}
{"step": 2, "choice": ["0010...", ...], "margin": ["4a13...", ...], "reset": [[0, 3]]}
```

``choice`` holds one string per group with one digit (base 36) per parameter, or for ``type='switch'`` one digit for
the model, and there ``J`` the K raw scores. ``margin`` says how clearly each choice won
(``gap_hf.optim.choice.margin``), in 35ths, a ``-`` where there was nothing to choose by; for ``'switch'`` it follows
from ``J``. ``reset`` lists the (group, parameter) pairs whose buffers were soft-reset, for ``'switch'`` just
``true``. Every line is written at once, so a killed run leaves a file that reads up to the last step that was handed
in (on an accelerator, the last log); a resumed run appends another header, whose ``start`` says after which step the
earlier lines no longer count.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..optim.choice import margin

FILENAME = "gap_choices.jsonl"
VERSION = 1
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
DIGIT_BYTES = np.frombuffer(DIGITS.encode(), dtype=np.uint8)


class ChoiceWriter:
    """Writes the choices file of one process.

    Args:
        path: the file. With ``header["start"] == 0`` it is written anew, else continued.
        header: what the first line says (see the module's description); without it nothing could be read back.

    Raises:
        ValueError: more candidates than there are digits.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        if max(len(group["candidates"]) for group in header["groups"]) > len(DIGITS):
            raise ValueError(
                f"the choices file holds up to {len(DIGITS)} candidates; GapCallback(record=False) does without it"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        if header["start"] and path.exists():
            drop_unfinished_line(path)
        # line-buffered: a line is on its way to the disk when write() returns
        self._file: TextIO = path.open("a" if header["start"] else "w", buffering=1, encoding="utf-8")
        self._write({"gap_hf": VERSION, **header})

    def write(
        self,
        step: int,
        last_choice: Sequence[ArrayLike],
        resets: Any,
        scores: list[float] | None,
        margins: Sequence[ArrayLike] | None = None,
    ) -> None:
        """Add one step. ``last_choice`` holds each group's ``param_group['last_choice']``; ``margins`` is like it."""
        texts = [digits(choices) for choices in last_choice]
        # of one choice for all every group holds the same
        line: dict[str, Any] = {"step": step, "choice": texts[0] if np.ndim(last_choice[0]) == 0 else texts}
        if scores is not None:
            line["J"] = [float(f"{score:.6g}") if np.isfinite(score) else None for score in scores]
        if margins is not None:
            line["margin"] = [margin_digits(group) for group in margins]
        if resets:
            line["reset"] = resets
        self._write(line)

    def close(self) -> None:
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")


def digits(numbers: ArrayLike) -> str:
    """One digit for each."""
    return DIGIT_BYTES[np.asarray(numbers, dtype=np.int64)].tobytes().decode()


def margin_digits(margins: ArrayLike) -> str:
    """From 0 to 1 in 35ths, or ``-`` for NaN, each."""
    values = np.asarray(margins, dtype=np.float64)
    unknown = np.isnan(values)
    rounded = np.rint(35 * np.clip(np.where(unknown, 0.0, values), 0.0, 1.0)).astype(np.int64)
    return np.where(unknown, np.uint8(ord("-")), DIGIT_BYTES[rounded]).astype(np.uint8).tobytes().decode()


def read_margin(digit: str) -> float:
    """What ``margin_digits`` wrote."""
    return math.nan if digit == "-" else int(digit, 36) / 35


def drop_unfinished_line(path: Path) -> None:
    """Cut what a killed process left of its last line."""
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])


class Row(NamedTuple):
    """One step: each parameter's choice and margin, and the indices of the parameters that were reset."""

    choices: list[int]
    margins: list[float]
    resets: list[int]


@dataclass
class Choices:
    """A choices file in memory. T steps, P parameters (P = 1, "all parameters", for ``type='switch'``).

    Attributes:
        type: ``'switch'`` or ``'switch_parameter_wise'``.
        candidate: what a candidate is: ``'beta1'`` or ``'momentum'``.
        steps: ``(T,)`` int, ascending.
        choices: ``(T, P)`` int, the index of the applied candidate.
        parameters: P names.
        labels: for each parameter its K candidates as text.
        resets: (step, parameter) of every soft reset.
        margins: ``(T, P)`` float, how clearly the choice won, from 0 (a draw) to 1 (the others point against the
            gradient), below 0 where a moving average chose another than the step's best; NaN where it is not known.
    """

    type: str
    candidate: str
    steps: np.ndarray
    choices: np.ndarray
    parameters: list[str]
    labels: list[list[str]]
    resets: list[tuple[int, int]]
    margins: np.ndarray


def read_choices(path: str | Path) -> Choices:
    """Read a choices file, or the one in a run directory.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is not a choices file, or holds no step.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILENAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. A run with a gap optimizer other than type=default writes {FILENAME} into its "
            "output_dir."
        )
    header: dict[str, Any] | None = None
    rows: dict[int, Row] = {}
    lines = path.read_bytes().split(b"\n")
    for number, raw in enumerate(lines, 1):
        if not raw:
            continue
        try:
            line = json.loads(raw)
            if "gap_hf" in line:
                if line["gap_hf"] != VERSION:
                    raise ValueError(f"format {line['gap_hf']} is not known to this version of gap_hf")
                missing = [key for key in ("start", "type", "candidate", "groups") if key not in line]
                if missing:
                    raise ValueError(f"the header lacks {', '.join(missing)}")
                same = header is None or all(header[key] == line[key] for key in ("type", "groups"))
                rows = {step: row for step, row in rows.items() if step <= line["start"]} if same else {}
                header = line
            elif header is None:
                raise ValueError("no header")
            else:
                rows[int(line["step"])] = decode_row(header, line)
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # a killed run's unfinished last line
                break
            raise ValueError(f"{path}, line {number}: not a line of a choices file ({error})") from error
    if header is None or not rows:
        raise ValueError(f"{path} holds no steps yet")
    steps = sorted(rows)
    switch, groups = header["type"] == "switch", header["groups"]
    return Choices(
        type=header["type"],
        candidate=header["candidate"],
        steps=np.array(steps),
        choices=np.array([rows[step].choices for step in steps]),
        parameters=["all parameters"] if switch else [name for group in groups for name in group["parameters"]],
        labels=[groups[0]["candidates"]] if switch else [g["candidates"] for g in groups for _ in g["parameters"]],
        resets=[(step, parameter) for step in steps for parameter in rows[step].resets],
        margins=np.array([rows[step].margins for step in steps]),
    )


def decode_row(header: dict[str, Any], line: dict[str, Any]) -> Row:
    """One step, its parameters counted over all groups.

    Raises:
        ValueError: it does not fit the header.
    """
    switch = header["type"] == "switch"
    groups = header["groups"][:1] if switch else header["groups"]
    sizes = [1 if switch else len(group["parameters"]) for group in groups]
    texts = [line["choice"]] if switch else line["choice"]
    if [len(text) for text in texts] != sizes:
        raise ValueError(f"it has {[len(text) for text in texts]} choices, the header {sizes} parameters")
    choices: list[int] = []
    for group, text in zip(groups, texts, strict=True):
        numbers = [int(digit, 36) for digit in text]
        if max(numbers, default=0) >= len(group["candidates"]):
            raise ValueError(f"it chooses candidate {max(numbers)} of {len(group['candidates'])}")
        choices += numbers
    if switch:
        J = [math.nan if score is None else score for score in line.get("J", [None] * len(groups[0]["candidates"]))]
        if len(J) != len(groups[0]["candidates"]):
            raise ValueError(f"it has {len(J)} scores for {len(groups[0]['candidates'])} candidates")
        margins = [margin(torch.tensor(J, dtype=torch.float64), torch.tensor(choices[0])).item()]
    else:
        margins = [read_margin(digit) for text in line.get("margin", ["-" * size for size in sizes]) for digit in text]
    if len(margins) != len(choices):
        raise ValueError(f"it has {len(margins)} margins for {len(choices)} choices")
    pairs = [] if not line.get("reset") else [(0, 0)] if switch else line["reset"]
    if not all(0 <= g < len(sizes) and 0 <= i < sizes[g] for g, i in pairs):
        raise ValueError("it resets a parameter that the header does not have")
    return Row(choices, margins, [sum(sizes[:g]) + i for g, i in pairs])
