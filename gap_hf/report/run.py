"""What a training run left in its directory: Trainer's log, and the choices if a gap optimizer made some."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..trainer.record import FILENAME, Choices, read_choices

STATE = "trainer_state.json"


@dataclass
class Run:
    """One run directory.

    Attributes:
        name: what it is called in pictures and tables.
        choices: the choices file, if there is one.
        log: Trainer's ``log_history``; empty where there is no ``trainer_state.json``.
    """

    name: str
    choices: Choices | None
    log: list[dict[str, Any]]

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """(steps, values) of what was logged as ``key``."""
        rows = [row for row in self.log if isinstance(row.get(key), (int, float)) and "step" in row]
        return [int(row["step"]) for row in rows], [float(row[key]) for row in rows]

    def last(self, key: str) -> float | None:
        """The last value that was logged as ``key``."""
        values = self.curve(key)[1]
        return values[-1] if values else None


def read_run(path: str | Path) -> Run:
    """Read a Trainer's ``output_dir``, or a choices file alone.

    Raises:
        FileNotFoundError: there is neither Trainer's log nor a choices file.
        ValueError: one of them can't be read.
    """
    path = Path(path)
    if path.is_file():
        return Run(path.parent.resolve().name, read_choices(path), [])
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
    return Run(path.resolve().name, choices, read_log(state) if state is not None else [])


def find_state(directory: Path) -> Path | None:
    """Trainer's state file: of the directory, else of its newest checkpoint."""
    if (directory / STATE).is_file():
        return directory / STATE
    steps = {
        int(match[1]): path
        for path in directory.glob(f"checkpoint-*/{STATE}")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.parent.name))
    }
    return steps[max(steps)] if steps else None


def read_log(path: Path) -> list[dict[str, Any]]:
    """``log_history`` of a state file.

    Raises:
        ValueError: it is not one, or was cut off.
    """
    try:
        history = json.loads(path.read_text(encoding="utf-8"))["log_history"]
        if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
            raise ValueError("log_history is not a list of logs")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a Trainer's state ({error})") from error
    return history
