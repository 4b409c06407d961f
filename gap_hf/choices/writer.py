"""Write the choices file (``gap_hf.choices.format``) without losing anything that is there already.

The file is only appended to. A run that starts anew keeps an earlier run's file under another name, and a lock keeps a
resumed run out of a file that another process is still writing.
"""

import errno
import json
import logging
import math
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import ArrayLike

from .digits import MOST_CANDIDATES, digits, margin_digits
from .format import Header

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

ENCODER = json.JSONEncoder(separators=(",", ":"))


class ChoiceWriter:
    """Writes the choices file of one process.

    If a process has two writers of one file, the later one continues: the earlier one belongs to a run that broke off.

    Args:
        path: the file. With ``header.start == 0`` it is begun, and a file that is there is kept under another name;
            otherwise that file is continued.
        header: the first line of this run; without it nothing could be read back.

    Raises:
        ValueError: there are more candidates than digits.
        OSError: the file can't be opened or written; ``write`` and ``check`` raise this, too.
    """

    def __init__(self, path: Path, header: Header) -> None:
        if max(len(group.candidates) for group in header.groups) > MOST_CANDIDATES:
            raise ValueError(f"the choices file holds up to {MOST_CANDIDATES} candidates")
        path.parent.mkdir(parents=True, exist_ok=True)
        place = path.parent.resolve() / path.name
        if place in _writers:
            _writers[place].close()
        _writers[place] = self
        # unbuffered: a line is on its way to the disk when write() returns, and nothing is left to fail in close()
        self._file: BinaryIO = reopen(path) if header.start else begin(path)
        try:
            self._write(header.to_json(), after_a_cut=not ends_with_newline(self._file))
        except OSError:
            self.close()
            raise

    def write(
        self,
        step: int,
        last_choice: Sequence[ArrayLike],
        resets: Any,
        scores: list[float] | None,
        margins: Sequence[ArrayLike] | None = None,
        weights: Sequence[np.ndarray] | None = None,
    ) -> None:
        """Add one step.

        ``last_choice``, ``margins`` and ``weights`` hold the choices, margins and weights of each group.
        """
        texts = [digits(choices) for choices in last_choice]
        # of one choice for all every group holds the same
        line: dict[str, Any] = {"step": step, "choice": texts[0] if np.ndim(last_choice[0]) == 0 else texts}
        if scores is not None:
            line["J"] = [float(f"{score:.6g}") if math.isfinite(score) else None for score in scores]
        if margins is not None:
            line["margin"] = [margin_digits(group) for group in margins]
        if weights is not None and weights[0].ndim == 1:
            line["weights"] = [float(f"{weight:.4g}") for weight in weights[0]]
        elif weights is not None:
            line["weights"] = [[margin_digits(column) for column in group.T] for group in weights]
        if resets:
            line["reset"] = resets
        self._write(line)

    def check(self) -> None:
        """Raise FileNotFoundError if the file has been deleted, which writing to it does not reveal."""
        if not self._file.closed and os.fstat(self._file.fileno()).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "it was deleted")

    def close(self) -> None:
        self._file.close()

    def _write(self, line: dict[str, Any], after_a_cut: bool = False) -> None:
        if self._file.closed:
            raise OSError(errno.EBUSY, "another recorder in this process writes there now")
        rest = ("\n" * after_a_cut + ENCODER.encode(line) + "\n").encode()
        while rest:
            rest = rest[self._file.write(rest) :]


_writers: WeakValueDictionary[Path, ChoiceWriter] = WeakValueDictionary()
"""The living writers of this process, by where they write."""


def begin(path: Path) -> BinaryIO:
    """Create and open a new file at ``path``."""
    while True:
        if os.path.lexists(path):
            keep(path)
        try:
            # "x" follows no link, and fails where another process was faster
            file = path.open("xb+", buffering=0)
        except FileExistsError:
            continue
        lock(file)
        return file


def reopen(path: Path) -> BinaryIO:
    """Open the file at ``path`` to continue it, or a new one if that file isn't this run's to continue."""
    if not path.exists() or path.is_symlink():
        return begin(path)
    file = path.open("ab+", buffering=0)
    if lock(file):
        return file
    file.close()
    return begin(path)


def keep(path: Path) -> None:
    """Rename the file at ``path`` to the first free name of ``gap_choices.1.jsonl``, ``gap_choices.2.jsonl``, ..."""
    for number in count(1):
        kept = path.with_name(f"{path.stem}.{number}{path.suffix}")
        try:
            kept.touch(exist_ok=False)  # nobody else can take the name now
        except FileExistsError:
            continue
        break
    try:
        living = is_written(path)
        path.replace(kept)
    except FileNotFoundError:  # another process has just done it
        kept.unlink()
        return
    except OSError:
        kept.unlink()
        raise
    if living:
        logger.warning(
            "another process is writing %s: two runs share this output_dir. The other run goes on in %s, and this "
            "run writes a new file in its place. Give each run an output_dir of its own.",
            path,
            kept.name,
        )
    else:
        logger.info("%s is of an earlier run: kept as %s", path, kept.name)


def is_written(path: Path) -> bool:
    """Whether another process holds the lock on the file."""
    if fcntl is None or path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return not lock(file, shared=True)
    except OSError:  # not readable; it can be renamed nevertheless
        return False


def lock(file: BinaryIO, shared: bool = False) -> bool:
    """Lock the file until it is closed or the process ends in whatever way; False if another process was first.

    It is a POSIX lock, which belongs to the process: the workers of a DataLoader, which outlive a killed trainer by
    seconds, do not inherit it.
    """
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)  # else a file system without locks
    return True


def ends_with_newline(file: BinaryIO) -> bool:
    """Whether the file's last line is complete, as a killed process's may not be; an empty file counts as complete."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
