"""A portable state made of a checkpoint that a backend wrote."""

from collections.abc import Callable
from pathlib import Path

from ..portable import write
from .stored import State, Stored, Weights


def convert(stored: Stored, folder: Path, done: Callable[[str], None]) -> None:
    """Write a checkpoint's optimizer, and the weights, as ``gap_hf.save_portable`` does: one tensor after the other.

    Args:
        stored: the checkpoint.
        folder: where to.
        done: told the name of each parameter whose state or weight has been read.

    Raises:
        ValueError: the checkpoint is damaged, or lacks the weights.
        TypeError: an option can't be written as JSON.
        OSError: something can't be written.
    """
    if stored.weights is None:
        raise ValueError(f"there are no weights beside {stored.path}, without which a run can't go on")
    read = stored.weights

    def state() -> State:
        for name, found in stored.state():
            yield name, found
            done(name)

    def weights() -> Weights:
        for name, found in read():
            yield name, found
            done(name)

    note = {"layout": stored.layout, "processes": stored.processes}
    write(folder, {"optimizer": None, "note": note}, stored.groups, state(), weights())
