"""A whole state in files from which any layout, on any number of processes, can go on: safetensors and JSON."""

import json
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .choices.naming import parameter_names
from .consolidated import Saved, gathered, hand_out, named, opened
from .sharding.ranks import from_first, is_first
from .weights import WEIGHT, gathered_weights

FORMAT = 1
INDEX = "index.json"
FOLDER = "gap_portable"
"""The folder's name in a checkpoint of Trainer."""
SHARD_BYTES = 256 * 2**20
"""How much is gathered before it is written; a parameter stays together."""


@torch.no_grad()
def save_portable(
    optimizer: Any, model: nn.Module, folder: str | Path, *, weights: bool = False, note: dict[str, Any] | None = None
) -> None:
    """Write the optimizer's whole state into a folder, from which ``load_portable`` goes on in any layout.

    Every rank must call it; rank 0 gathers one parameter after the other, and writes. It holds up to 600 MiB beside one
    parameter's buffers: 256 MiB, and what safetensors makes of them.

    Args:
        optimizer: a gap optimizer, or Accelerate's or DeepSpeed's wrapper of one.
        model: the model whose parameters it steps, wrapped or not.
        folder: where to; what is there is replaced once everything is written.
        weights: whether to save the weights, too: ``consolidated_state_dict``.
        note: what to write down beside it, as JSON.

    Raises:
        TypeError: there is no gap optimizer inside ``optimizer``, or a group has a value that JSON can't hold.
        RuntimeError: the optimizer is still being wrapped.
    """
    gap, layout = opened(optimizer)
    names = parameter_names(gap, model)
    state, trained = gathered(gap, layout, names), gathered_weights(layout, model, names) if weights else iter(())
    problem = None
    if is_first():
        try:
            write(Path(folder), {"optimizer": type(gap).__name__, "note": note}, named(gap, names), state, trained)
        except (OSError, SafetensorError, TypeError) as error:
            problem = error
    for _ in chain(state, trained):  # on the other ranks, and on rank 0 what is left after an error: they wait for it
        pass
    if (problem := from_first(problem)) is not None:  # nobody goes on before it is there
        raise problem


def write(
    folder: Path,
    head: dict[str, Any],
    groups: list[dict[str, Any]],
    state: Iterator[tuple[str, dict[str, Tensor]]],
    weights: Iterator[tuple[str, Tensor]],
) -> None:
    """Write a state: its groups, and what is found, parameter by parameter."""
    index: dict[str, Any] = {"format": FORMAT, **head}
    index["param_groups"] = [
        {key: to_json(value, f"{key} of group {g}") for key, value in group.items()} for g, group in enumerate(groups)
    ]
    index |= {"steps": {}, "files": {}, "weights": {}}
    new = folder.with_name(f"{folder.name}.new")
    clear(new)
    new.mkdir(parents=True)
    try:
        fill(new, index, state, weights)
    except BaseException:
        clear(new)
        raise
    clear(folder)
    new.rename(folder)


def fill(
    new: Path,
    index: dict[str, Any],
    state: Iterator[tuple[str, dict[str, Tensor]]],
    weights: Iterator[tuple[str, Tensor]],
) -> None:
    """Write the files into a new folder."""
    for what, found in (("files", of_state(state, index["steps"])), ("weights", ({n: t} for n, t in weights))):
        for n, shard in enumerate(in_shards(found)):
            file = f"{'state' if what == 'files' else what}-{n:05}.safetensors"
            save_file(shard, new / file)
            index[what] |= dict.fromkeys(shard, file)
    (new / INDEX).write_text(json.dumps(index, indent=1))


def clear(folder: Path) -> None:
    """Remove a folder that ``save_portable`` wrote, or began to write; anything else in it is an error."""
    if not folder.exists():
        return
    for file in folder.iterdir():
        if file.name != INDEX and file.suffix != ".safetensors":
            raise FileExistsError(f"{folder} has {file.name} in it, which save_portable did not write")
        file.unlink()
    folder.rmdir()


def of_state(state: Iterator[tuple[str, dict[str, Tensor]]], steps: dict[str, float]) -> Iterator[dict[str, Tensor]]:
    """Name each parameter's buffers as the files do, and collect the counts of steps in ``steps``."""
    for name, whole in state:
        steps[name] = float(whole.pop("step"))
        yield {f"{name}:{key}": buffer for key, buffer in whole.items()}


def in_shards(found: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Collect what belongs together up to ``SHARD_BYTES``."""
    shard: dict[str, Tensor] = {}
    for tensors in found:
        shard |= {key: tensor.contiguous() for key, tensor in tensors.items()}
        if sum(buffer.nbytes for buffer in shard.values()) >= SHARD_BYTES:
            yield shard
            shard = {}
    if shard:
        yield shard


def load_portable(optimizer: Any, model: nn.Module, folder: str | Path) -> None:
    """Go on from what ``save_portable`` wrote, in any layout and on any number of processes.

    The weights are loaded, too, if they were saved. Every rank must call it; only rank 0 reads, one tensor at a time.

    Args:
        optimizer: a gap optimizer, or Accelerate's or DeepSpeed's wrapper of one.
        model: the model whose parameters it steps, wrapped or not.
        folder: where it is.

    Raises:
        TypeError: there is no gap optimizer inside ``optimizer``.
        RuntimeError: the optimizer is still being wrapped.
        ValueError: there is no such state, it is damaged, or it does not fit: ``load_consolidated_state_dict``.
    """
    found = read(Path(folder)) if is_first() else None
    saved, files = found if isinstance(found, tuple) else (found, {})

    hand_out(optimizer, model, saved, partial(stored_tensor, files))


def stored_tensor(files: dict[tuple[str, str], Path], name: str, key: str) -> Tensor:
    """Read a parameter's buffer, or the parameter itself, from the file that ``read`` found it in."""
    with safe_open(files[name, key], framework="pt") as file:
        return file.get_tensor(name if key == WEIGHT else f"{name}:{key}")


def read(folder: Path) -> tuple[Saved, dict[tuple[str, str], Path]] | str:
    """Describe the state in a folder, and say where its buffers are; or say what is wrong with it."""
    try:
        index = json.loads((folder / INDEX).read_text())
        if index["format"] != FORMAT:
            return f"{folder} has format {index['format']}; this version of gap_hf reads {FORMAT}"
        groups = [{key: from_json(value) for key, value in group.items()} for group in index["param_groups"]]
        steps = {name: float(step) for name, step in index["steps"].items()}
        saved, files = Saved(groups, steps, {name: {} for name in steps}, {}), {}
        for file in sorted(set(index["files"].values())):
            for stored, shape, dtype in tensors_in(folder / file):
                name, key = stored.rsplit(":", 1)
                saved.buffers[name][key] = shape, dtype
                files[name, key] = folder / file
        for file in sorted(set(index["weights"].values())):
            for name, shape, dtype in tensors_in(folder / file):
                saved.weights[name] = shape, dtype
                files[name, WEIGHT] = folder / file
    except (OSError, AttributeError, KeyError, TypeError, ValueError, SafetensorError) as error:
        return (
            f"{folder} has no whole state that save_portable wrote, or it is damaged ({type(error).__name__}: {error})"
        )
    return saved, files


def tensors_in(path: Path) -> Iterator[tuple[str, torch.Size, torch.dtype]]:
    """List the tensors of a file, with their shapes and dtypes, without reading them."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # it is no dictionary
            part = file.get_slice(name)
            shape = torch.Size(part.get_shape())
            yield name, shape, (part[:0] if shape else file.get_tensor(name)).dtype


# ---------------------------------------------------------------- options as JSON
def to_json(value: Any, what: str) -> Any:
    """Return an option as JSON has it; tuples, which betas are told from candidates by, tensors and dicts are marked.

    Raises:
        TypeError: it can't be.
    """
    if isinstance(value, (str, bool, int, float)) or value is None:
        return value
    if isinstance(value, list):
        return [to_json(item, what) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [to_json(item, what) for item in value]}
    if isinstance(value, dict):
        return {"dict": {key: to_json(item, what) for key, item in value.items()}}
    if isinstance(value, Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    raise TypeError(f"{what} is a {type(value).__name__}, which can't be written as JSON")


def from_json(value: Any) -> Any:
    """Return the option that ``to_json`` wrote."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict) and "tuple" in value:
        return tuple(from_json(item) for item in value["tuple"])
    if isinstance(value, dict) and "dict" in value:
        return {key: from_json(item) for key, item in value["dict"].items()}
    if isinstance(value, dict):
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]), device="cpu")
    return value
