"""The reader for a checkpoint."""

from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from ..portable import FOLDER, INDEX
from . import dcp, portable_files, torch_files, zero
from .stored import Stored


def newest(folder: Path) -> Path:
    """Return the newest checkpoint in a Trainer's ``output_dir``, or the folder itself if there is none."""
    return Path(get_last_checkpoint(str(folder)) or folder) if folder.is_dir() else folder


def read(path: Path, choices: Path | None = None) -> Stored:
    """Read what a backend saved in a checkpoint, or the portable state if there is nothing else.

    Args:
        path: a checkpoint of Trainer, Accelerate, DeepSpeed or torch, a Trainer's ``output_dir`` with some, or a file.
        choices: the run's choices file, for names.

    Raises:
        ValueError: there is no checkpoint, or it can't be read.
    """
    if path.is_file():
        return torch_files.read(path, choices)
    path = newest(path)
    if (path / INDEX).exists():
        return portable_files.read(path)
    if zero.is_deepspeed(path):
        return zero.read(path)
    if (path / dcp.OPTIMIZER).exists() or (path / ".metadata").exists():
        return dcp.read(path)
    for name in torch_files.NAMES:
        if (path / name).exists():
            return torch_files.read(path / name, choices)
    if (path / FOLDER).exists():
        return portable_files.read(path / FOLDER)
    raise ValueError(
        f"{path} is no checkpoint with an optimizer. Expected Trainer's (optimizer.pt, optimizer.bin or optimizer_0), "
        f"DeepSpeed's (latest), torch.distributed.checkpoint's (.metadata), or save_portable's ({INDEX})"
    )
