"""What an optimizer keeps for a parameter, taken apart into tensors under names, and put together again."""

import inspect
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree as pytree  # torch's own; what walks through a deque, too

from .spec import Spec

NUMBERS = (bool, int, float)
PLAIN = (Tensor, *NUMBERS, str, torch.dtype, type(None))
"""What is no container."""


class Unfit(Exception):
    """An optimizer can't be a candidate, or not for a parameter of some shape; the message says why."""


class Leaf(NamedTuple):
    """One value of a parameter's state.

    Attributes:
        name: the path to it, joined by ``_``.
        kind: its type: ``Tensor``, one of ``NUMBERS``, or another one, whose values never change.
        shape: a tensor's shape.
        dtype: a tensor's dtype.
        strides: how a tensor lies in memory, where it is not in order: what is computed from it depends on that.
        value: one whose values never change.
    """

    name: str
    kind: type
    shape: torch.Size | None = None
    dtype: torch.dtype | None = None
    strides: tuple[int, ...] | None = None
    value: Any = None

    @property
    def kept(self) -> bool:
        """Whether it is kept from step to step."""
        return self.kind is Tensor or self.kind in NUMBERS


class Template(NamedTuple):
    """The state of a parameter of some shape and dtype: its leaves, and their tree as ``named`` returns it."""

    leaves: tuple[Leaf, ...]
    tree: Any


def build(spec: Spec, groups: list[dict[str, Any]]) -> Optimizer:
    """Construct a candidate's optimizer for ``groups``, which have a learning rate each.

    Weight decay is not the candidate's unless its options say so. Options that the constructor does not name are the
    groups' (as ``use_muon`` in pytorch_optimizer). Raises Unfit.
    """
    options = {name: value for name, value in spec.options if takes(spec, name)}
    of_groups = {name: value for name, value in spec.options if name not in options}
    if "weight_decay" not in options and takes(spec, "weight_decay"):
        options["weight_decay"] = 0.0
    try:
        return spec.optimizer([{**group, **of_groups} for group in groups], **options)
    except Exception as error:
        raise Unfit(f"it can't be built from parameters and options: {type(error).__name__}: {error}") from error


@cache
def takes(spec: Spec, option: str) -> bool:
    """Whether the constructor has an option."""
    return option in inspect.signature(spec.optimizer).parameters


def named(state: Any) -> tuple[list[tuple[str, Any]], Any]:
    """Take a state apart: pairs of a name and a value, and the tree: of a flat one its names."""
    if all(isinstance(value, PLAIN) for value in state.values()):
        return [(str(name), value) for name, value in state.items()], tuple(state)
    found, tree = pytree.tree_flatten_with_path(dict(state))
    names = ["_".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path) for path, _ in found]
    return list(zip(names, (leaf for _, leaf in found), strict=True)), tree


@lru_cache(maxsize=4096)
def template(spec: Spec, shape: torch.Size, dtype: torch.dtype) -> Template:
    """Find out, by two steps, what a candidate keeps for a parameter of this shape and dtype. Raises Unfit."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        p = torch.zeros(shape, dtype=dtype).requires_grad_()
        optimizer = build(spec, [{"params": [p], "lr": 1e-3}])
        if hasattr(optimizer, "train") and hasattr(optimizer, "eval"):
            raise Unfit("it must be told by train() and eval() when the model is evaluated, which nobody would do")
        seen = []
        for step in range(2):
            generator = torch.Generator().manual_seed(step)
            p.grad = torch.randn(shape, generator=generator).to(dtype)
            step_of(optimizer)
            seen.append(named(optimizer.state.get(p, {})))
    (first, first_tree), (second, tree) = seen
    leaves = tuple(leaf_of(name, value) for name, value in second)
    at_first = [leaf_of(name, value)._replace(strides=None) for name, value in first]
    if first_tree != tree or at_first != [leaf._replace(strides=None) for leaf in leaves]:
        raise Unfit("what it keeps changes its form from step to step")
    return Template(leaves, tree)


def step_of(optimizer: Optimizer) -> None:
    """Take a step. Raises Unfit."""
    try:
        optimizer.step()
    except Exception as error:
        raise Unfit(f"its step failed: {type(error).__name__}: {error}") from error


def leaf_of(name: str, value: Any) -> Leaf:
    """Describe a value. Raises Unfit if it can't be kept in a checkpoint."""
    if isinstance(value, Tensor):
        if type(value) is not Tensor and not isinstance(value, torch.nn.Parameter):
            raise Unfit(f"it keeps {name} as a {type(value).__name__}")
        strides = None if value.is_contiguous() else value.stride()
        return Leaf(name, Tensor, value.shape, value.dtype, strides)
    if type(value) in NUMBERS:
        return Leaf(name, type(value))
    if value is None or isinstance(value, (str, torch.dtype)):
        return Leaf(name, type(value), value=value)
    raise Unfit(f"it keeps {name} as a {type(value).__name__}, which a checkpoint can't hold")


def assemble(found: Template, buffers: Mapping[str, Tensor]) -> dict[str, Any]:
    """Make the state that the optimizer expects from what is kept; tensors that fit are taken as they are."""
    leaves: list[Any] = []
    for leaf in found.leaves:
        if not leaf.kept:
            leaves.append(leaf.value)
        elif leaf.kind is not Tensor:
            leaves.append(leaf.kind(buffers[leaf.name].item()))
        elif leaf.strides is None:
            leaves.append(buffers[leaf.name].to(leaf.dtype))
        else:
            buffer = buffers[leaf.name]
            assert leaf.shape is not None
            laid_out = torch.empty_strided(leaf.shape, leaf.strides, dtype=leaf.dtype, device=buffer.device)
            leaves.append(laid_out.copy_(buffer))
    if isinstance(found.tree, tuple):
        return dict(zip(found.tree, leaves, strict=True))
    state: dict[str, Any] = pytree.tree_unflatten(leaves, found.tree)
    return state


def keep(found: Template, state: Any, buffers: Mapping[str, Tensor]) -> None:
    """Write a state back into the tensors that are kept. Raises Unfit if its form has changed."""
    values, tree = named(state)
    if tree != found.tree or [name for name, _ in values] != [leaf.name for leaf in found.leaves]:
        raise Unfit("what it keeps has changed its form")
    for leaf, (name, value) in zip(found.leaves, values, strict=True):
        if not leaf.kept:
            if value != leaf.value:
                raise Unfit(f"{name} has changed from {leaf.value!r} to {value!r}")
        elif leaf.kind is Tensor:
            if value.shape != leaf.shape:
                raise Unfit(f"{name} has changed its shape from {tuple(leaf.shape or ())} to {tuple(value.shape)}")
            if value.data_ptr() != buffers[name].data_ptr():
                buffers[name].copy_(value)
        else:
            buffers[name].fill_(value)
