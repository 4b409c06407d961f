"""What was trained, by names and whole, the same under every layout: gathered, and handed out again."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .choices.naming import plain_name
from .sharding.layout import Layout
from .sharding.ranks import is_first, sent

WEIGHT = "weight"
"""The parameter itself where its buffers are named."""

Described = dict[str, tuple[torch.Size, torch.dtype]]
"""Shapes and dtypes of whole tensors, by their names."""


def gathered_weights(layout: Layout, model: nn.Module, names: list[list[str]]) -> Iterator[tuple[str, Tensor]]:
    """Gather one trained parameter after the other, then the model's buffers. Every rank must call it.

    On other ranks than 0 the tensors are empty.
    """
    empty = torch.empty(0, device="cpu")
    for g, own in enumerate(names):
        for i, name in enumerate(own):
            keys = layout.keys(g, i)
            whole = layout.whole(g, i, {key: {WEIGHT: key.detach()} for key in keys}, WEIGHT, keys[0].dtype)
            yield name, whole.cpu().clone() if is_first() else empty
    for name, buffer in model_buffers(model):
        yield name, buffer.cpu().clone() if is_first() else empty


def model_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that ``model.state_dict`` has, by their plain names: the running averages of a norm, for example."""
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.removeprefix(f"{prefix}.") not in module._non_persistent_buffers_set:
                yield plain_name(name), buffer.detach()


def hand_out_weights(
    layout: Layout, model: nn.Module, names: list[list[str]], saved: Described, tensor: Callable[[str], Tensor]
) -> None:
    """Hand whole weights, which fit, to a model in any layout, from rank 0. Every rank must call it.

    Args:
        layout: the optimizer's layout.
        model: the model whose parameters it steps.
        names: their names, group by group.
        saved: what the weights are.
        tensor: on rank 0 a function that returns one of them by its name.
    """
    for g, own in enumerate(names):
        for i, name in enumerate(own):
            shape, dtype = saved[name]
            whole = sent(tensor(name) if is_first() else None, shape, dtype, layout.device)
            layout.fill(g, i, {key: {WEIGHT: key.detach()} for key in layout.keys(g, i)}, WEIGHT, whole)
    for name, buffer in model_buffers(model):
        shape, dtype = saved[name]
        buffer.copy_(sent(tensor(name) if is_first() else None, shape, dtype, buffer.device))
    layout.update_model()


def unlike_weights(layout: Layout, model: nn.Module, names: list[list[str]], saved: Described) -> Iterator[str]:
    """Say what differs between the weights that were saved and those that they would go into."""
    if not saved:
        return
    known = {
        name: (layout.shapes[g][i], layout.keys(g, i)[0].dtype)
        for g, own in enumerate(names)
        for i, name in enumerate(own)
    }
    known |= {name: (buffer.shape, buffer.dtype) for name, buffer in model_buffers(model)}
    if lacking := [name for name in known if name not in saved]:
        yield f"its weights lack {shortened(lacking)}"
    if extra := [name for name in saved if name not in known]:
        yield f"it has weights of {shortened(extra)}, which are not trained here"
    for name in known.keys() & saved.keys():
        (shape, dtype), (wanted, here) = saved[name], known[name]
        if shape != wanted:
            yield f"{name} has the shape {tuple(shape)}; expected {tuple(wanted)}"
        if torch.promote_types(dtype, here) != here:
            yield f"{name} is {dtype}, and {here} here, which can't hold it"


def shortened(names: list[str]) -> str:
    """The first of ``names``, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
