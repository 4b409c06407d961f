"""What is in a checkpoint, as a table."""

from collections import Counter
from typing import Any, NamedTuple

import torch

from .stored import Stored


class Kept(NamedTuple):
    """What a parameter's state is: its count of steps, and its buffers' dtypes and bytes."""

    step: float
    buffers: dict[str, tuple[torch.dtype, int]]


def heading(stored: Stored) -> str:
    """Say where the checkpoint is, and who wrote it."""
    by = f"{stored.layout}, {stored.processes} processes" if stored.processes > 1 else stored.layout
    return f"{stored.path}: {by}"


def table(stored: Stored) -> tuple[list[str], list[list[str]]]:
    """Describe each parameter group that has parameters: the options, the state, and what was chosen last.

    Returns:
        The titles, and the rows.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    # a parameter at a time: what is kept has no tensors
    state = {
        name: Kept(float(found.pop("step")), {key: (tensor.dtype, tensor.nbytes) for key, tensor in found.items()})
        for name, found in stored.state()
    }
    return (
        ["group", "type", "candidates", "learning rate", "parameters", "steps", "state", "bytes", "chosen last"],
        [row(g, group, state) for g, group in enumerate(stored.groups) if group["params"]],
    )


def row(g: int, group: dict[str, Any], state: dict[str, Kept]) -> list[str]:
    """Describe one group."""
    names = group["params"]
    found = [state[name] for name in names if name in state]
    steps = sorted({one.step for one in found})
    buffers = [(key, dtype, nbytes) for one in found for key, (dtype, nbytes) in one.buffers.items()]
    kinds = Counter((key.rstrip("0123456789").rstrip("_"), dtype) for key, dtype, _ in buffers)
    kept = [f"{key} {str(dtype).removeprefix('torch.')} ({n // len(found)})" for (key, dtype), n in kinds.items()]
    listed = labels(group.get("betas", group.get("momentum")))
    return [
        str(g),
        str(group.get("type")),
        ":".join(listed),
        f"{float(group['lr']):g}",
        str(len(names)) if len(found) == len(names) else f"{len(names)}, {len(names) - len(found)} without state",
        " to ".join(f"{step:g}" for step in dict.fromkeys([*steps[:1], *steps[-1:]])),
        ", ".join(kept),
        f"{sum(nbytes for *_, nbytes in buffers):,}",
        chosen(group, listed),
    ]


def labels(value: Any) -> list[str]:
    """The candidates as in ``optim_args``; without beta2 if they share it."""
    values = value if isinstance(value, list) else [value]
    pairs = [tuple(one) if isinstance(one, (list, tuple)) else (one,) for one in values]
    shared = len({pair[1:] for pair in pairs}) == 1
    return [str(pair[0]) if shared else "/".join(map(str, pair)) for pair in pairs]


def chosen(group: dict[str, Any], listed: list[str]) -> str:
    """How many parameters had which candidate last."""
    last = group.get("last_choice")
    counts = Counter(last if isinstance(last, list) else [last])
    return ", ".join(f"{counts[i]} x {label}" for i, label in enumerate(listed) if counts[i])
