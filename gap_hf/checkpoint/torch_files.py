"""Whole states as ``torch.save`` writes them: Trainer's ``optimizer.pt``, Accelerate's and FSDP's ``optimizer.bin``."""

from pathlib import Path
from typing import Any

from ..choices.reader import group_names
from .stored import State, Stored, Weights, check_groups, load, plain, weights_beside

NAMES = ("optimizer.pt", "optimizer.bin")


def read(path: Path, choices: Path | None = None) -> Stored:
    """Read such a file.

    Args:
        path: the file.
        choices: the run's choices file or its directory, which has the names of the parameters that torch numbers.

    Raises:
        ValueError: it is damaged or another optimizer's, or the names are missing.
    """
    found: Any = load(path)
    groups = check_groups(found.get("param_groups") if isinstance(found, dict) else None, path)
    by_name = all(isinstance(key, str) for group in groups for key in group["params"])
    names = [group["params"] for group in groups] if by_name else names_of(groups, path, choices)
    numbers = [key for group in groups for key in group["params"]]
    keys = dict(zip((name for own in names for name in own), numbers, strict=True))

    def state() -> State:
        for name, key in keys.items():
            if key in found["state"]:
                yield name, plain(found["state"][key], name)

    layout = "FSDP" if by_name else "whole parameters"
    named = [{**group, "params": own} for group, own in zip(groups, names, strict=True)]
    weights = weights_beside(path.parent, list(keys))
    full = path.parent / "pytorch_model_fsdp.bin"
    if full.exists():
        model: Any = load(full)

        def from_full() -> Weights:
            yield from ((name, model[name]) for name in keys)

        weights = from_full
    return Stored(path, layout, 1, named, state, weights)


def names_of(groups: list[dict[str, Any]], path: Path, choices: Path | None) -> list[list[str]]:
    """Return the parameters' names, group by group, from the choices file beside the checkpoint. Raises ValueError."""
    where = choices or path.resolve().parent.parent
    try:
        names = group_names(where)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} numbers its parameters, and the choices file that would have their names can't be read ({error}); "
            "name that file with --choices"
        ) from error
    if [len(own) for own in names] != [len(group["params"]) for group in groups]:
        raise ValueError(
            f"{path} has {[len(group['params']) for group in groups]} parameters per group, but the choices file in "
            f"{where} {[len(own) for own in names]}; name the right one with --choices"
        )
    return names
