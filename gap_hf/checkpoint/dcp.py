"""Checkpoints of ``torch.distributed.checkpoint``, as FSDP writes them with ``SHARDED_STATE_DICT``."""

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from .stored import State, Stored, Weights, check_groups, plain

OPTIMIZER, MODEL = "optimizer_0", "pytorch_model_fsdp_0"
"""The folders' names in a checkpoint of accelerate (``accelerate/utils/fsdp_utils.py``)."""
STATE, GROUPS = "optimizer.state.", "optimizer.param_groups."


class Folder:
    """A folder of the format, from which single entries are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.entries = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
        except Exception as error:
            raise ValueError(f"{path} can't be read: {type(error).__name__}: {error}") from error

    def get(self, keys: list[str]) -> dict[str, Any]:
        """Read these entries; ranks divided them, one process has them whole. Raises ValueError."""
        found: dict[str, Any] = {key: empty(self.entries[key]) for key in keys}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is")  # disabled, unavailable or uninitialized
            try:
                dcp.load(found, storage_reader=dcp.FileSystemReader(self.path))
            except Exception as error:
                raise ValueError(f"{self.path} is damaged: {type(error).__name__}: {error}") from error
        return found


def empty(entry: Any) -> Any:
    """Something for an entry to be read into."""
    if isinstance(entry, TensorStorageMetadata):
        return torch.empty(entry.size, dtype=entry.properties.dtype, device="cpu")
    return None


def read(folder: Path) -> Stored:
    """Read such a checkpoint.

    Args:
        folder: Trainer's or Accelerate's checkpoint, or the folder of the optimizer in it.

    Raises:
        ValueError: it is damaged, or another optimizer's.
    """
    path = folder / OPTIMIZER if (folder / OPTIMIZER).exists() else folder
    optimizer = Folder(path)
    options = optimizer.get([key for key in optimizer.entries if key.startswith(GROUPS)])
    groups: dict[int, dict[str, Any]] = {}
    for key, value in options.items():
        number, _, option = key.removeprefix(GROUPS).partition(".")
        groups.setdefault(int(number), {})[option] = value
    named = check_groups([groups[number] for number in sorted(groups)], path)
    names = [name for group in named for name in group["params"]]

    def state() -> State:
        for name in names:
            begin = f"{STATE}{name}."
            found = optimizer.get([key for key in optimizer.entries if key.startswith(begin)])
            if found:
                yield name, plain({key.removeprefix(begin): value for key, value in found.items()}, name)

    beside = path.parent / MODEL
    model = Folder(beside) if beside.exists() else None

    def weights() -> Weights:
        assert model is not None
        for name in names:
            yield name, model.get([f"model.{name}"])[f"model.{name}"]

    if model is not None and (lacking := [name for name in names if f"model.{name}" not in model.entries]):
        raise ValueError(f"{beside} lacks {', '.join(lacking[:3])}")
    return Stored(path, "FSDP", 1, named, state, weights if model is not None else None)
