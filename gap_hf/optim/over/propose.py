"""The proposals of one candidate: its optimizer steps copies of the parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .leaves import Unfit, assemble, build, keep, step_of, template
from .spec import Spec

OTHERS = "state"
"""Where ``carried`` has what an optimizer keeps for no parameter."""


@dataclass
class Given:
    """One parameter group, as a candidate is given it.

    Attributes:
        lr: the group's learning rate.
        first_lr: the one that it was built with, which some keep.
        starts: the N parameters that the steps begin at; they are left alone.
        grads: their gradients, likewise.
        buffers: what the candidate keeps for each, by the names of its leaves; updated in place.
        fresh: whether a parameter has never been stepped, so that nothing is kept for it yet.
        carried: what the candidate keeps for the whole group, and under ``OTHERS`` for the optimizer; updated in place.
    """

    lr: Any
    first_lr: float
    starts: Sequence[Tensor]
    grads: Sequence[Tensor]
    buffers: Sequence[Mapping[str, Tensor]]
    fresh: Sequence[bool]
    carried: dict[str, Any] = field(default_factory=dict)


def propose(spec: Spec, givens: Sequence[Given], copies: bool = True) -> list[list[Tensor]]:
    """Let a candidate take its step from all groups, on copies.

    A new optimizer is made each time. So what it does depends on what is kept and on nothing else, which is what a
    checkpoint can bring back; ``profile.py`` makes sure that it is enough.

    Args:
        spec: the candidate.
        givens: the groups.
        copies: whether it gets copies of the gradients, too.

    Returns:
        For each group the N parameters as they are after the step.

    Raises:
        Unfit: the optimizer failed, or what it keeps has changed its form.
    """
    with torch.enable_grad():  # some look whether a parameter requires a gradient
        shadows = [[p.detach().clone().requires_grad_() for p in given.starts] for given in givens]
    form = cache(lambda shape, dtype: template(spec, shape, dtype))
    firsts = [given.first_lr * spec.lr_scale for given in givens]
    optimizer = build(spec, [{"params": own, "lr": lr} for own, lr in zip(shadows, firsts, strict=True)])
    for group, given in zip(optimizer.param_groups, givens, strict=True):
        group["lr"] = given.lr if spec.lr_scale == 1 else given.lr * spec.lr_scale
    fresh_groups = [without_params(group) for group in optimizer.param_groups]
    for group, own, given in zip(optimizer.param_groups, shadows, givens, strict=True):
        group.update({name: value for name, value in given.carried.items() if name != OTHERS})
        for shadow, grad, buffers, fresh in zip(own, given.grads, given.buffers, given.fresh, strict=True):
            shadow.grad = grad.to(shadow.dtype, copy=copies)  # some change it, and the others need it as it is
            if not fresh:
                optimizer.state[shadow] = assemble(form(shadow.shape, shadow.dtype), buffers)
    if others := givens[0].carried.get(OTHERS):
        optimizer.state.update(others)
    step_of(optimizer)
    mine = {id(shadow) for own in shadows for shadow in own}
    others = {key: value for key, value in optimizer.state.items() if id(key) not in mine}
    for group, before, own, given in zip(optimizer.param_groups, fresh_groups, shadows, givens, strict=True):
        given.carried.update(changed(group, before))
        if others:
            given.carried[OTHERS] = plain(others)
        for shadow, buffers in zip(own, given.buffers, strict=True):
            keep(form(shadow.shape, shadow.dtype), optimizer.state.get(shadow, {}), buffers)
    return [[shadow.detach() for shadow in own] for own in shadows]


def without_params(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's options."""
    return {name: value for name, value in group.items() if name != "params"}


def changed(group: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a step has left in a group. Raises Unfit if that can't be kept."""
    found = {
        name: value for name, value in without_params(group).items() if name not in before or value is not before[name]
    }
    if "lr" in found:
        raise Unfit("it changes the learning rate by itself, which is the run's")
    return plain(found)


def plain(found: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a copy that a checkpoint can hold: numbers, texts, tensors, dictionaries of them, lists of the former."""
    return {str(name): copied(value, str(name)) for name, value in found.items()}


def copied(value: Any, name: str) -> Any:
    """Copy a value. Raises Unfit."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple) and not any(isinstance(item, (Tensor, dict)) for item in value):
        return type(value)(copied(item, name) for item in value)
    if type(value) is dict:
        return {key: copied(item, name) for key, item in value.items()}
    raise Unfit(f"it keeps {name} as a {type(value).__name__} for a whole group, which a checkpoint can't hold")
