"""An optimizer's whole state by parameter names, the same under every layout: gathered, and handed out again."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .choices.naming import parameter_names
from .optim import GapOptimizer
from .optim.conversion import to_candidates, to_torch
from .optim.find import find_gap_optimizer
from .optim.loading import tell
from .optim.state import buffer_dtype, make
from .optim.work import Buffer
from .sharding.layout import Layout
from .sharding.ranks import from_first, is_first, sent
from .weights import WEIGHT, Described, gathered_weights, hand_out_weights, shortened, unlike_weights


@torch.no_grad()
def consolidated_state_dict(optimizer: Any, model: nn.Module, *, weights: bool = False) -> dict[str, Any]:
    """Gather the optimizer's state from all ranks, for whole parameters and by their names.

    Every rank must call it. ``load_consolidated_state_dict`` is the reverse, in any layout.

    Args:
        optimizer: a gap optimizer, or Accelerate's or DeepSpeed's wrapper of one.
        model: the model whose parameters it steps, wrapped or not.
        weights: whether to gather what was trained, too: the parameters in the precision that the optimizer steps them
            in, and the model's buffers. A model's ``state_dict`` has less under DeepSpeed in half precision.

    Returns:
        On rank 0 ``{"state": {name: {"step": ..., "exp_avg_0": ..., ...}}, "param_groups": [...]}`` like
        ``torch.optim``'s, with names in the place of parameter numbers; the tensors lie on the CPU and have the
        parameter's shape and the state's dtype (of 8-bit state the codes, uint8). With ``weights`` also
        ``{"weights": {name: ...}}``. On the other ranks an empty dictionary.

    Raises:
        TypeError: there is no gap optimizer inside ``optimizer``.
        RuntimeError: the optimizer is still being wrapped.
    """
    gap, layout = opened(optimizer)
    names = parameter_names(gap, model)
    state = {name: found for name, found in gathered(gap, layout, names) if is_first()}
    found = {name: weight for name, weight in gathered_weights(layout, model, names) if is_first()} if weights else {}
    if not is_first():
        return {}
    return {"state": state, "param_groups": named(gap, names)} | ({"weights": found} if weights else {})


def named(gap: GapOptimizer, names: list[list[str]]) -> list[dict[str, Any]]:
    """The groups with names in the place of parameters."""
    return [{**group, "params": own} for group, own in zip(gap.param_groups, names, strict=True)]


def gathered(gap: GapOptimizer, layout: Layout, names: list[list[str]]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Gather the state of one parameter after the other; on other ranks than 0 it is empty. Every rank must call it.

    Parameters that never had a gradient are left out.
    """
    for g, (group, own) in enumerate(zip(gap.param_groups, names, strict=True)):
        local = [[gap.state[key] for key in layout.keys(g, i) if gap.state.get(key)] for i in range(len(own))]
        taken = [max((float(found["step"]) for found in pieces if "step" in found), default=-1.0) for pieces in local]
        steps = layout.maximum(torch.tensor(taken, dtype=torch.float64, device=layout.device)).tolist()
        for i, (name, step) in enumerate(zip(own, steps, strict=True)):
            if step < 0:
                continue
            whole = {"step": torch.tensor(step, dtype=torch.float64, device="cpu")} if is_first() else {}
            for buffer in gap.family.buffers(group):
                dtype = buffer_dtype(buffer, group, layout.keys(g, i)[0])
                found = layout.whole(g, i, gap.state, buffer.name, dtype, buffer.shape)
                if is_first():  # one at a time, so that no rank holds them all on its device
                    whole[buffer.name] = found.detach().cpu().clone()
            yield name, whole


def load_consolidated_state_dict(optimizer: Any, model: nn.Module, state_dict: dict[str, Any]) -> None:
    """Hand a whole state, as ``consolidated_state_dict`` gives it, to an optimizer in any layout.

    So a run goes on in another layout, or on another number of processes. The weights are loaded, too, if the state has
    them. Every rank must call it; the tensors travel from rank 0 one at a time. Everything is checked before anything
    changes.

    Args:
        optimizer: a gap optimizer, or Accelerate's or DeepSpeed's wrapper of one.
        model: the model whose parameters it steps, wrapped or not.
        state_dict: the state; on other ranks than 0 it is not looked at.

    Raises:
        TypeError: there is no gap optimizer inside ``optimizer``.
        RuntimeError: the optimizer is still being wrapped.
        ValueError: the state is another optimizer's or another model's, has other candidates, or can't be held in this
            layout. Every rank names all that differs, and the optimizer is unchanged.
    """
    saved = described(state_dict) if is_first() else None

    def tensor(name: str, key: str) -> Tensor:
        return state_dict["weights"][name] if key == WEIGHT else state_dict["state"][name][key]

    hand_out(optimizer, model, saved, tensor)


@torch.no_grad()
def hand_out(optimizer: Any, model: nn.Module, saved: Any, tensor: Callable[[str, str], Tensor]) -> None:
    """Hand a whole state to an optimizer, from rank 0: ``load_consolidated_state_dict``.

    Args:
        optimizer: a gap optimizer, or a wrapper of one.
        model: the model whose parameters it steps.
        saved: on rank 0 what the state holds, or what is wrong with it.
        tensor: on rank 0 a function that returns a parameter's buffer, by their names.
    """
    gap, layout = opened(optimizer)
    names = parameter_names(gap, model)
    saved = from_first(saved)
    if isinstance(saved, str):
        raise ValueError(saved)
    problems = [*unlike_groups(gap, names, saved), *unlike_state(gap, layout, names, saved)]
    problems += unlike_weights(layout, model, names, saved.weights)
    if problems:
        raise ValueError(f"this state does not fit: {'; '.join(problems)}")
    state: dict[Tensor, dict[str, Any]] = {}
    for g, (group, own) in enumerate(zip(gap.param_groups, names, strict=True)):
        for i, name in enumerate(own):
            if name not in saved.steps:
                continue
            like = held_as(group, gap.family.buffers(group), saved.buffers[name])
            for key in layout.keys(g, i):
                if key.numel() and (made := make(state, gap.family, like, key, partial(layout.shapes_in, g, key))):
                    made["step"].fill_(saved.steps[name])
            for buffer in gap.family.buffers(group):
                given = tensor(name, buffer.name) if is_first() else None
                shape, dtype = saved.buffers[name][buffer.name]
                whole = sent(given, shape, dtype, layout.device)
                layout.fill(g, i, state, buffer.name, whole, buffer.shape)
    with layout.listed():
        numbers = {id(key): n for n, key in enumerate(key for group in gap.param_groups for key in group["params"])}
        groups = [
            {**group, "params": [numbers[id(key)] for key in mine["params"]]}
            for group, mine in zip(saved.groups, gap.param_groups, strict=True)
        ]
        by_number = {numbers[id(key)]: found for key, found in state.items()}
        gap.load_state_dict({"state": by_number, "param_groups": groups})
    if saved.weights:
        hand_out_weights(layout, model, names, saved.weights, lambda name: tensor(name, WEIGHT))


def held_as(group: dict[str, Any], declared: Sequence[Buffer], saved: Described) -> dict[str, Any]:
    """Return ``group`` as it is, or with float32 where an older version saved that for 8-bit state."""
    if group.get("state_dtype") != "8bit":
        return group
    wide = any(buffer.relative is not None and saved[buffer.name][1] == torch.float32 for buffer in declared)
    return {**group, "state_dtype": "float32"} if wide else group


def torch_state_dict(optimizer: Any, state_dict: dict[str, Any] | None = None) -> dict[str, Any]:
    """Turn the state of a gap optimizer into one that ``torch.optim``'s Adam, AdamW or SGD loads.

    Each parameter's moments are those of the candidate that was applied to it last (in a mix, of the one with the
    largest weight). A group has the decay rates of the candidate that was applied most often in it last; the moments of
    parameters with another one are rescaled to the same estimate of the mean gradient. The other way needs no call: a
    gap optimizer's ``load_state_dict`` converts what it is given, and logs it.

    Args:
        optimizer: a gap optimizer, or Accelerate's or DeepSpeed's wrapper of one.
        state_dict: its state, as ``state_dict`` or ``consolidated_state_dict`` returned it; by default the former's.

    Returns:
        A new state dictionary; the optimizer and ``state_dict`` stay as they are.

    Raises:
        TypeError: there is no gap optimizer inside ``optimizer``, or torch has no optimizer of its kind.
        ValueError: DeepSpeed's flat tensors hold parameters with different choices; give the consolidated state.
    """
    gap = find_gap_optimizer(optimizer)
    if gap is None:
        raise TypeError(f"{type(optimizer).__qualname__} is, or holds, no gap optimizer")
    return to_torch(gap.family, gap.state_dict() if state_dict is None else state_dict)


def convert_state_dict(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Turn a state with other candidates, another number of them or another ``type`` into one that can be loaded.

    Otherwise a loaded state brings its own candidates and ``type`` along. A candidate with the decay rates of one that
    was there goes on with its moments, bit for bit. Any other begins as the one that was applied to the parameter last,
    rescaled to the same estimate of the mean gradient. Choices, averages and counters begin anew; learning rate, decay
    and ``eps`` are the state's. In Trainer, ``optim_args="convert=true"`` does this on resuming.

    Args:
        optimizer: the Adam, AdamW or SGDM of gap_hf that it is for, or Accelerate's wrapper of it.
        state_dict: what such an optimizer saved, or ``consolidated_state_dict`` gathered.

    Returns:
        A new state dictionary; the optimizer and ``state_dict`` stay as they are.

    Raises:
        TypeError: there is no gap optimizer inside ``optimizer``, or it is of another family.
        ValueError: the state is of another optimizer or another model, or DeepSpeed's flat tensors hold parameters with
            different choices; give the consolidated state.
    """
    gap = find_gap_optimizer(optimizer)
    if gap is None:
        raise TypeError(f"{type(optimizer).__qualname__} is, or holds, no gap optimizer")
    converted, notes = to_candidates(gap.family, gap.param_groups, state_dict)
    tell(notes)
    return converted


def opened(optimizer: Any) -> tuple[GapOptimizer, Layout]:
    """Return the gap optimizer inside ``optimizer``, and its layout. Raises TypeError or RuntimeError."""
    gap = find_gap_optimizer(optimizer)
    if gap is None:
        raise TypeError(f"{type(optimizer).__qualname__} is, or holds, no gap optimizer")
    layout = gap.layout()
    if layout is None:
        raise RuntimeError("the optimizer is still being wrapped")
    return gap, layout


# ---------------------------------------------------------------- what was saved
class Saved(NamedTuple):
    """What a consolidated state holds, without its tensors.

    Attributes:
        groups: its parameter groups.
        steps: each parameter's count of steps.
        buffers: each parameter's buffers, with their shapes and dtypes.
        weights: the same of the weights; nothing if they were not saved.
    """

    groups: list[dict[str, Any]]
    steps: dict[str, float]
    buffers: dict[str, Described]
    weights: Described


def described(state_dict: Any) -> Saved | str:
    """Describe a consolidated state; if it is none, say so. An error here would leave the other ranks waiting."""
    try:
        steps = {name: float(found["step"]) for name, found in state_dict["state"].items()}
        buffers = {
            name: {key: (t.shape, t.dtype) for key, t in found.items() if key != "step"}
            for name, found in state_dict["state"].items()
        }
        groups = [{**group, "params": [*map(str, group["params"])]} for group in state_dict["param_groups"]]
        weights = {name: (t.shape, t.dtype) for name, t in state_dict.get("weights", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return (
            "this is no whole state by names; expected what consolidated_state_dict returned on rank 0 "
            f"({type(error).__name__}: {error})"
        )
    return Saved(groups, steps, buffers, weights)


def unlike_groups(gap: GapOptimizer, names: list[list[str]], saved: Saved) -> Iterator[str]:
    """Say what differs between the groups of an optimizer, with these parameters, and those that were saved."""
    if len(saved.groups) != len(names):
        yield f"it has {len(saved.groups)} parameter groups, this optimizer {len(names)}"
        return
    for g, (theirs, mine, own) in enumerate(zip(saved.groups, gap.param_groups, names, strict=True)):
        there = theirs["params"]
        if lacking := [name for name in own if name not in there]:
            yield f"group {g} lacks {shortened(lacking)}"
        if extra := [name for name in there if name not in own]:
            yield f"group {g} has {shortened(extra)}, which this optimizer does not have there"
        if not lacking and not extra and there != own:
            yield f"group {g} has its parameters in another order: {shortened(there)} in the place of {shortened(own)}"
        option = gap.family.candidate_option
        for key in ("type", option, "state_dtype"):
            if key in mine and key not in theirs:
                yield f"group {g} has no {key}, so it is another optimizer's"
        if theirs.get("type", mine["type"]) != mine["type"]:
            yield f"group {g} has type={theirs['type']!r}, this optimizer {mine['type']!r}"
        if option in theirs and not same_candidates(gap, theirs, mine):
            yield f"group {g} has {option}={theirs[option]!r}, this optimizer {mine[option]!r}"


def same_candidates(gap: GapOptimizer, theirs: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Whether both groups list the same candidates in the same order."""
    try:
        return gap.family.parse(theirs) == gap.family.parse(mine)
    except (KeyError, TypeError, ValueError):
        return False


def unlike_state(gap: GapOptimizer, layout: Layout, names: list[list[str]], saved: Saved) -> Iterator[str]:
    """Say what differs between the buffers that were saved and those of an optimizer with these parameters."""
    known = {name for own in names for name in own}
    if extra := [name for name in saved.steps if name not in known]:
        yield f"it has buffers of {shortened(extra)}, which this optimizer does not have"
    for g, (group, own) in enumerate(zip(gap.param_groups, names, strict=True)):
        there = [name for name in own if name in saved.steps]
        counts = sorted({saved.steps[name] for name in there})
        if layout.counts_together and len(counts) > 1:
            yield f"group {g} has taken {counts[0]:g} to {counts[-1]:g} steps; here its parameters share one count"
        for i, name in enumerate(own):
            if name not in saved.steps:
                continue
            found, expected = saved.buffers[name], {buffer.name: buffer for buffer in gap.family.buffers(group)}
            if found.keys() != expected.keys():
                yield f"{name} has the buffers {', '.join(found)}; expected {', '.join(expected)}"
                continue
            for key, buffer in expected.items():
                whole = layout.shapes[g][i]
                shape, dtype = found[key]
                wanted = whole if buffer.shape is None else buffer.shape(whole)
                if shape != wanted:
                    yield f"{key} of {name} has the shape {tuple(shape)}; expected {tuple(wanted)}"
                stored = buffer_dtype(buffer, group, layout.keys(g, i)[0])
                if dtype != stored and (stored, dtype) != (torch.uint8, torch.float32):  # of an older version
                    yield f"{key} of {name} is {dtype}; expected {stored}"
