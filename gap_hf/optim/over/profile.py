"""How finely parameters may be cut for an optimizer, found out by running it.

A table of names would be wrong with the next version of a package, in silence. So each candidate takes some steps on
small tensors before it is used: whole, one parameter at a time, and cut in two, each part in an optimizer of its own as
on two ranks. Not only the parameters must come out the same, but all that it keeps, too: it may act on that later.
"""

from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..family import Grain
from .leaves import Unfit, build, named, step_of, takes, template
from .propose import Given, plain, propose, without_params
from .spec import Spec

STEPS = 130  # some begin to clip, or to average, after a hundred
LR = 1e-2
Shapes = tuple[tuple[int, ...], ...]
SETS: tuple[Shapes, ...] = (((6, 4), (8,)), ((6, 4), (4, 8)))
"""Shapes to try; the second for optimizers that take matrices only."""

NEEDS = {
    Grain.ELEMENT: "elements: every layout",
    Grain.PARAMETER: "whole parameters: one process, DDP, ZeRO 0",
    Grain.MODEL: "all parameters: one process, DDP, ZeRO 0",
}
"""What a candidate works on, and where that is to be had."""


class Profile(NamedTuple):
    """What was found out about a candidate.

    Attributes:
        grain: the finest cut of parameters that it works on.
        changes_gradients: whether it writes into the gradients.
        bytes: what it keeps for each element of a float32 parameter of two axes, 64 x 64.
        carried: what it keeps for a whole group, as the trial has left it.
    """

    grain: Grain
    changes_gradients: bool
    bytes: float
    carried: dict[str, Any]


class Trained(NamedTuple):
    """A parameter after training, and what is kept for it, by name."""

    value: Tensor
    kept: dict[str, Tensor]


@lru_cache(maxsize=256)
def profile(spec: Spec) -> Profile:
    """Find out what a candidate needs.

    Raises:
        Unfit: it can't be a candidate; the message says why.
    """
    spec = spec._replace(lr_scale=1.0)
    with torch.random.fork_rng(devices=[]):
        shapes, whole = first_that_fits(spec)
        if not agree(whole, trained(spec, shapes)):
            raise Unfit("two runs from the same numbers differ: it draws at random, which no two ranks would do alike")
        if any(torch.equal(p, first) for (p, _), first in zip(whole, start(shapes), strict=True)):
            raise Unfit("it leaves parameters where they are")
        values, given, changes = rebuilt(spec, shapes)
        if not all(equal(p, value) for (p, _), value in zip(whole, values, strict=True)):
            raise Unfit("it keeps something outside of its state and its groups, which a checkpoint would lose")
        found = Grain.MODEL if any(map(is_measured, given.carried.values())) else grain(spec, shapes, whole)
        return Profile(found, changes, bytes_of(spec), {**may_change(spec), **given.carried})


def grain(spec: Spec, shapes: Shapes, whole: list[Trained]) -> Grain:
    """Cut finer and finer, as long as the result stays the same."""
    if not agree(whole, [trained(spec, shapes, [i])[0] for i in range(len(shapes))]):
        return Grain.MODEL
    try:
        halves = [[trained(spec, shapes, [i], half)[0] for half in (0, 1)] for i in range(len(shapes))]
    except Unfit:
        return Grain.PARAMETER
    joined = all(is_made_of(one, parts) for one, parts in zip(whole, halves, strict=True))
    return Grain.ELEMENT if joined else Grain.PARAMETER


def may_change(spec: Spec) -> dict[str, Any]:
    """Return what a group holds besides options, which a step may change that was not among those of the trial."""
    (group,) = build(spec, [{"params": start(SETS[1]), "lr": LR}]).param_groups
    found: dict[str, Any] = {}
    for name, value in without_params(group).items():
        if name != "lr" and not takes(spec, name):
            with suppress(Unfit):
                found |= plain({name: value})
    return found


def is_measured(value: Any) -> bool:
    """Whether something that all parameters share is more than a count: made of them, it couples them."""
    if isinstance(value, Tensor):
        return value.is_floating_point()
    if isinstance(value, dict):
        return any(map(is_measured, value.values()))
    return any(map(is_measured, value)) if isinstance(value, (list, tuple)) else isinstance(value, float)


def first_that_fits(spec: Spec) -> tuple[Shapes, list[Trained]]:
    """Return the first of ``SETS`` that the optimizer takes, and how it ends. Raises the first one's Unfit."""
    refused = []
    for shapes in SETS:
        try:
            return shapes, trained(spec, shapes)
        except Unfit as error:
            refused.append(error)
    raise refused[0]


def start(shapes: Shapes) -> list[Tensor]:
    """Return parameters to begin with; some elements are 0, which the smallest step can leave."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    return [p * (torch.rand(p.shape, generator=generator) > 0.3) for p in drawn]


def rate(step: int) -> float:
    """Return the learning rate of a step: a schedule, since some keep the first one."""
    return LR / (1 + step % 3)


def gradient(shape: tuple[int, ...], i: int, step: int) -> Tensor:
    """Return a gradient of parameter ``i``: of very different sizes from step to step, and 0 in some elements.

    At first they point the same way, for those that look how far they have come.
    """
    generator = torch.Generator().manual_seed(1000 * step + i)
    size = 10 ** (4 * torch.rand((), generator=generator) - 3)
    drawn = torch.randn(shape, generator=generator)
    if step < STEPS // 2:
        size, drawn = torch.tensor(1.0), 0.1 * drawn + torch.randn(shape, generator=generator.manual_seed(i))
    return size * drawn * (torch.rand(shape, generator=generator) > 0.1)


def trained(spec: Spec, shapes: Shapes, some: list[int] | None = None, half: int | None = None) -> list[Trained]:
    """Train with the optimizer as it is; with ``some`` of the parameters, and of them only the first or second half."""

    def part(tensor: Tensor) -> Tensor:
        flat, middle = tensor.flatten(), tensor.numel() // 2 + 1
        return tensor.clone() if half is None else (flat[middle:] if half else flat[:middle]).clone()

    indices = range(len(shapes)) if some is None else some
    with torch.enable_grad():
        params = [part(start(shapes)[i]).requires_grad_() for i in indices]
        optimizer = build(spec, [{"params": params, "lr": LR}])
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = rate(step)
            for p, i in zip(params, indices, strict=True):
                p.grad = part(gradient(shapes[i], i, step))
            step_of(optimizer)
    return [Trained(p.detach(), dict(numbers(optimizer.state.get(p, {})))) for p in params]


def numbers(state: Any) -> Iterable[tuple[str, Tensor]]:
    """Return the tensors and numbers of a state by name."""
    for name, value in named(state)[0]:
        if isinstance(value, (Tensor, bool, int, float)):
            yield name, torch.as_tensor(value)


def rebuilt(spec: Spec, shapes: Shapes) -> tuple[list[Tensor], Given, bool]:
    """Train in the way of this package, by a new optimizer at each step, from what is kept.

    Returns:
        The parameters, what was given for the last step, and whether the optimizer writes into gradients.
    """
    params = start(shapes)
    kept = [
        {
            leaf.name: torch.zeros(leaf.shape or (), dtype=leaf.dtype or torch.float64)
            for leaf in template(spec, p.shape, p.dtype).leaves
            if leaf.kept
        }
        for p in params
    ]
    given, changes = Given(LR, LR, params, [], kept, [True] * len(params)), False
    for step in range(STEPS):
        given.lr = rate(step)
        grads = [gradient(shape, i, step) for i, shape in enumerate(shapes)]
        given.grads = [grad.clone() for grad in grads]
        (given.starts,) = propose(spec, [given], copies=False)
        given.fresh = [False] * len(params)
        changes |= not all(map(equal, grads, given.grads))
    return list(given.starts), given, changes


def equal(some: Tensor, other: Tensor) -> bool:
    """Whether tensors are equal, bit for bit but for what is no number."""
    return torch.equal(some.nan_to_num(), other.nan_to_num())


def agree(some: list[Trained], others: list[Trained]) -> bool:
    """Whether two ways to train gave the same."""
    return all(is_made_of(one, [other]) for one, other in zip(some, others, strict=True))


def is_made_of(whole: Trained, parts: list[Trained]) -> bool:
    """Whether parts joined are the whole, and what is not of the parameter's shape is the same in each."""
    if not equal(whole.value.flatten(), torch.cat([part.value.flatten() for part in parts])):
        return False
    if any(part.kept.keys() != whole.kept.keys() for part in parts):
        return False
    for name, kept in whole.kept.items():
        pieces = [part.kept[name] for part in parts]
        if kept.shape == whole.value.shape:
            if not equal(kept.flatten(), torch.cat([piece.flatten() for piece in pieces])):
                return False
        elif not all(piece.shape == kept.shape and equal(piece, kept) for piece in pieces):
            return False
    return True


def bytes_of(spec: Spec) -> float:
    """Count what is kept for each element."""
    shape = torch.Size([64, 64])
    leaves = template(spec, shape, torch.float32).leaves
    sizes = (leaf.shape.numel() * leaf.dtype.itemsize for leaf in leaves if leaf.shape is not None and leaf.dtype)
    return sum(sizes) / shape.numel()
