"""What a training run left in its directory: Trainer's log, and the choices if a gap optimizer made some."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..choices import Choices, read_choices
from ..choices.format import FILENAME

STATE = "trainer_state.json"


@dataclass
class Run:
    """What was read from one run's directory.

    Attributes:
        name: the run's name in pictures and tables.
        directory: the directory.
        choices: the content of the choices file, if there is one.
        log: Trainer's ``log_history``; empty where there is no ``trainer_state.json``.
        global_step: Trainer's count of steps; 0 where there is no ``trainer_state.json``.
    """

    name: str
    directory: Path
    choices: Choices | None
    log: list[dict[str, Any]]
    global_step: int = 0

    @property
    def last_step(self) -> int:
        """The last step that left a trace, even if it was not logged."""
        chosen = 0 if self.choices is None else int(self.choices.steps[-1])
        return max(self.global_step, chosen, *self.curve("step")[0])

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """The steps and the values that were logged as ``key``."""
        rows = [row for row in self.log if type(row.get(key)) in (int, float) and "step" in row]
        return [int(row["step"]) for row in rows], [float(row[key]) for row in rows]

    def last(self, key: str) -> float | None:
        """The last value that was logged as ``key``."""
        values = self.curve(key)[1]
        return values[-1] if values else None


def read_run(path: str | Path | Run) -> Run:
    """Read a Trainer's ``output_dir``, or a choices file alone; a ``Run`` is returned as it is.

    Raises:
        FileNotFoundError: there is neither Trainer's log nor a choices file.
        ValueError: one of them can't be read.
    """
    if isinstance(path, Run):
        return path
    path = Path(path)
    if path.is_file():
        directory = path.parent.resolve().name
        name = directory if path.name == FILENAME else f"{directory}/{path.name}"
        return Run(name, path.parent, read_choices(path), [])
    found = path / FILENAME
    state = find_state(path)
    if not found.is_file() and state is None:
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: there is no such directory.")
        raise FileNotFoundError(
            f"{path} holds no run: neither {FILENAME} (written with a gap optimizer) nor {STATE} (written at "
            "checkpoints and by trainer.save_state())."
        )
    choices = read_choices(found) if found.is_file() else None
    return Run(path.resolve().name, path, choices, *(read_state(state) if state is not None else ([], 0)))


def read_runs(paths: Sequence[str | Path | Run]) -> list[Run]:
    """Read several runs and give them names that tell them apart: if two are alike, more of the path is shown.

    A ``Run`` is returned as it is. Raises the same errors as ``read_run``.
    """
    found = [read_run(path) for path in paths]
    names = [run.name for run in found]
    for path, run in zip(paths, found, strict=True):
        if not isinstance(path, Run) and names.count(run.name) > 1:
            run.name = f"{run.directory.resolve().parent.name}/{run.name}"
    return found


def choices_of(run: Run) -> Choices:
    """Return the run's choices.

    Raises:
        FileNotFoundError: the run has no choices file.
    """
    if run.choices is None:
        raise FileNotFoundError(
            f"{run.directory} has no {FILENAME}: its optimizer was not a gap optimizer, or chose nothing "
            "(type=default). gap-hf compare shows its losses."
        )
    return run.choices


def find_state(directory: Path) -> Path | None:
    """Find Trainer's state file, in the directory or else in its newest checkpoint."""
    if (directory / STATE).is_file():
        return directory / STATE
    steps = {
        int(match[1]): path
        for path in directory.glob(f"checkpoint-*/{STATE}")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.parent.name))
    }
    return steps[max(steps)] if steps else None


def read_state(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read ``log_history`` and ``global_step`` from a state file.

    Raises:
        ValueError: the file is not a state file, or was cut off.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        history, global_step = state["log_history"], state.get("global_step", 0)
        if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
            raise ValueError("log_history is not a list of logs")
        for step in (global_step, *(row.get("step", 0) for row in history)):
            if type(step) not in (int, float) or not 0 <= step < 2**63:
                raise ValueError(f"step {step!r} is not a number of steps")
        for row in history:
            for value in row.values():
                if type(value) is int:
                    float(value)  # else drawing it would overflow
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: not a Trainer's state ({error})") from error
    return history, int(global_step)
