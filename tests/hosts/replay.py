"""The reference's choices for what a witness wrote down."""

import inspect
from pathlib import Path
from typing import Any

import torch

from gap_hf.optim.reference.adam import ReferenceAdam
from gap_hf.optim.reference.sgdm import ReferenceSGDM

REFERENCES = {"GapAdamW": ReferenceAdam, "Adam": ReferenceAdam, "SGDM": ReferenceSGDM}


def choices(folder: Path, parameters: list[str]) -> list[list[int]]:
    """Take the steps that ``witness.py`` wrote down, by the reference; return each step's choices, for all groups.

    Args:
        folder: the witness's.
        parameters: the parameters' names, in the order of the choices.
    """
    files = sorted(folder.glob("step-*.pt"), key=lambda path: int(path.stem.removeprefix("step-")))
    steps = [torch.load(path, weights_only=False) for path in files]
    if "named" in steps[0]:
        steps = [in_order(step, parameters, number == 0) for number, step in enumerate(steps)]
    first = steps[0]
    cls = REFERENCES[first["class"]]
    taken = inspect.signature(cls).parameters.keys() - {"params"}
    groups = []
    for group in first["groups"]:
        params = [p.float().requires_grad_() for p in group["params"]]
        groups.append({"params": params, **{key: value for key, value in group.items() if key in taken}})
    optimizer = cls(groups, **{key: value for key, value in groups[0].items() if key != "params"})
    found = []
    for step in steps:
        for mine, theirs in zip(optimizer.param_groups, step["groups"], strict=True):
            mine["lr"] = theirs["lr"]
            for p, grad in zip(mine["params"], theirs["grads"], strict=True):
                p.grad = None if grad is None else grad.float()
        optimizer.step()
        last = [group["last_choice"] for group in optimizer.param_groups if group["params"]]
        found.append([choice for group in last for choice in (group if isinstance(group, list) else [group])])
    return found


def in_order(step: dict[str, Any], parameters: list[str], first: bool) -> dict[str, Any]:
    """Make one group of gradients by name; where the parameters are plays no part in the choices."""
    grads = [step["named"][name] for name in parameters]
    params = {"params": [torch.zeros_like(grad) for grad in grads]} if first else {}
    return {"class": step["class"], "groups": [step["options"] | {"grads": grads} | params]}
