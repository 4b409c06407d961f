"""What candidates keep for a whole group, as the group holds it: a flat dictionary with all of its keys from the start.

``torch.distributed.checkpoint`` loads what the fresh optimizer's state has keys for, and drops empty dictionaries
(``traverse_state_dict`` in torch/distributed/checkpoint/_traverse.py). So the values that a trial has left stand there
until the first step, and are told apart by ``BEGUN``.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from .leaves import Unfit

BEGUN = "begun"
"""Whether the values are a run's own."""
ABSENT = "<absent>"
"""Stands for what is not kept yet: some optimizers do nothing while the learning rate is 0."""


def start(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a group begins with, given what each candidate kept in a trial."""
    found = {name: value for j, example in enumerate(examples) for name, value in flat(example, str(j)).items()}
    return {BEGUN: False, **copy.deepcopy(found)}


def take(carried: Mapping[str, Any], j: int, example: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of what candidate ``j`` has kept, in the form of ``example``; nothing before the first step."""
    return copy.deepcopy(nested(carried, example, str(j))) if carried[BEGUN] else {}


def put(carried: dict[str, Any], j: int, example: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """Put back what candidate ``j`` keeps. Raises Unfit if there is something new."""
    found, names = flat(kept, str(j)), flat(example, str(j)).keys()
    if new := found.keys() - names:
        raise Unfit(f"it keeps something for a whole group that it did not keep in the trial: {', '.join(sorted(new))}")
    carried.update({name: found.get(name, ABSENT) for name in names})
    carried[BEGUN] = True


def flat(kept: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    """Return the values under their paths."""
    found: dict[str, Any] = {}
    for name, value in kept.items():
        path = f"{prefix}.{name}"
        found.update(flat(value, path) if isinstance(value, Mapping) else {path: value})
    return found


def nested(carried: Mapping[str, Any], example: Mapping[Any, Any], prefix: str) -> dict[Any, Any]:
    """Undo ``flat``."""
    found = {}
    for name, value in example.items():
        path = f"{prefix}.{name}"
        if isinstance(value, Mapping):
            found[name] = nested(carried, value, path)
        elif not (isinstance(carried[path], str) and carried[path] == ABSENT):
            found[name] = carried[path]
    return found
