"""What readers make of a checkpoint: the optimizer's whole state and the weights, by parameter names."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..optim.arithmetic.torchao import dequantized
from ..optim.codes import named

State = Iterator[tuple[str, dict[str, Tensor]]]
Weights = Iterator[tuple[str, Tensor]]


@dataclass
class Stored:
    """A gap optimizer in a checkpoint.

    Attributes:
        path: where it is.
        layout: what wrote it, in the words of ``gap_hf/trainer/resume.py``.
        processes: how many wrote it, as far as that matters.
        groups: the parameter groups, with names in the place of parameters.
        state: a function that reads the whole state, parameter by parameter.
        weights: a function that reads the trained weights, one by one; None if there are none.
    """

    path: Path
    layout: str
    processes: int
    groups: list[dict[str, Any]]
    state: Callable[[], State] = field(repr=False)
    weights: Callable[[], Weights] | None = field(default=None, repr=False)

    def names(self) -> list[str]:
        """All parameters' names, group by group."""
        return [name for group in self.groups for name in group["params"]]


def check_groups(groups: Any, path: Path) -> list[dict[str, Any]]:
    """Return the groups if they are a gap optimizer's.

    Raises:
        ValueError: they are not.
    """
    if isinstance(groups, list) and groups and all(isinstance(g, dict) and "negative_steps" in g for g in groups):
        return groups
    raise ValueError(
        f"{path} is not a gap optimizer's. The state of torch's Adam, AdamW or SGD needs no conversion: set optim to a "
        "gap optimizer and resume"
    )


def plain(buffers: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    """Return a parameter's buffers as plain tensors: 8-bit state of older versions as float32.

    Raises:
        ValueError: one is something else.
    """
    found = {}
    for key, value in named(buffers).items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{key} of {what} is stored as {type(value).__name__}, from which its shape can't be told; resume with "
                "optim_args='portable=true' where it was written, and save again"
            )
        found[key] = dequantized(value)
    return found


# ---------------------------------------------------------------- the model's own files
MODEL_FILES = ("model.safetensors", "model-*.safetensors", "adapter_model.safetensors")


def weights_beside(folder: Path, names: list[str]) -> Callable[[], Weights] | None:
    """Return a function that reads these parameters from a model's or an adapter's files in ``folder``.

    None if there are no such files. Parameters of an adapter are stored there without the adapter's name.

    Raises:
        ValueError: a file is damaged, or a parameter is in none of them.
    """
    places = model_files(folder)
    if not places:
        return None
    stored = {name: key for name in names for key in (name, name.replace(".default.", ".")) if key in places}
    if lacking := [name for name in names if name not in stored]:
        raise ValueError(f"the model's files in {folder} lack {', '.join(lacking[:3])}")

    def read() -> Weights:
        for name in names:
            with safe_open(places[stored[name]], framework="pt") as file:
                yield name, file.get_tensor(stored[name])

    return read


def model_files(folder: Path) -> dict[str, Path]:
    """Say in which file each tensor of a model, or of an adapter, is. Raises ValueError."""
    places = {}
    for path in (path for pattern in MODEL_FILES for path in sorted(folder.glob(pattern))):
        try:
            with safe_open(path, framework="pt") as file:
                places.update(dict.fromkeys(file.keys(), path))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    return places


def load(path: Path) -> Any:
    """Load one of torch's own files without running anything in it, and without reading its tensors yet.

    Raises:
        ValueError: it can't be.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle's, zipfile's, torch's own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} can't be read: {reason}") from error
