"""What ``gap_hf.save_portable`` wrote."""

import json
from functools import partial
from pathlib import Path

from torch import tensor

from .. import portable
from ..weights import WEIGHT
from .stored import State, Stored, Weights, check_groups


def read(folder: Path) -> Stored:
    """Read such a folder.

    Raises:
        ValueError: it is damaged.
    """
    found = portable.read(folder)
    if isinstance(found, str):
        raise ValueError(found)
    saved, files = found

    get = partial(portable.stored_tensor, files)

    def state() -> State:
        for name, step in saved.steps.items():
            yield name, {"step": tensor(step), **{key: get(name, key) for key in saved.buffers[name]}}

    def weights() -> Weights:
        for name in saved.weights:
            yield name, get(name, WEIGHT)

    note = json.loads((folder / portable.INDEX).read_text()).get("note") or {}
    groups = check_groups(saved.groups, folder)
    layout = f"portable, by {note.get('layout', 'save_portable')}"
    return Stored(folder, layout, note.get("processes", 1), groups, state, weights if saved.weights else None)
