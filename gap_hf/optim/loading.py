"""Loading a saved state into an optimizer: everything is checked before anything is changed.

``torch.optim.Optimizer.load_state_dict`` casts all buffers to the parameter's dtype, and accepts whatever it is given.
Here the buffers keep their precision, and a state with which no step could be taken is refused; the optimizer then
stays as it was.
"""

import copy
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from math import isfinite
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from ..sharding import cut_alike, local_part
from .arithmetic.torchao import dequantized
from .codes import named, recode
from .family import Family
from .groups import DTYPES, check_decided
from .options import Declared, is_number, validate, validate_together
from .packed import unpack
from .rules import TYPES
from .scope import scope_of
from .state import buffer_dtype, counter_dtype_and_device
from .work import Buffer

logger = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A checked state, ready to take the place of the optimizer's.

    Attributes:
        state: the state of each parameter.
        param_groups: the groups, with the optimizer's own parameters.
        notes: what somebody who resumes a run with this state should know.
    """

    state: defaultdict[Tensor, dict[str, Any]]
    param_groups: list[dict[str, Any]]
    notes: list[str]


def check(
    name: str,
    family: Family,
    options: Mapping[str, Declared],
    param_groups: list[dict[str, Any]],
    shapes: Callable[[int, Tensor], Sequence[torch.Size]],
    state_dict: Any,
) -> Loaded:
    """Work out what loading ``state_dict`` would make of an optimizer; nothing is changed yet.

    Args:
        name: the name of the optimizer's class.
        family: its arithmetic.
        options: its constructor's options.
        param_groups: the groups as they are now.
        shapes: gives the shapes of the whole parameters that a tensor of a group has parts of.
        state_dict: the state to be loaded.

    Raises:
        ValueError: the state is another optimizer's or another model's, or is damaged.
    """
    saved_groups = list(groups_of(name, family, param_groups, state_dict))
    groups = [merge(options, saved, mine) for saved, mine in zip(saved_groups, param_groups, strict=True)]
    for g, group in enumerate(groups):
        try:
            check_group(family, options, group)
        except (TypeError, KeyError, OverflowError, RuntimeError, ValueError) as error:
            raise ValueError(f"group {g} of the loaded state: {error}") from error
    if groups:
        validate_together(options, groups, [group["K"] for group in groups])
    saved_state, listed = state_dict["state"], [index for saved in saved_groups for index in saved["params"]]
    if not all(isinstance(index, (int, str)) for index in listed) or len(set(listed)) < len(listed):
        raise ValueError("this state is damaged: its groups list a parameter twice, or something that can't be one")
    # what is filed under other keys is no parameter's; torch hands it on, too
    known = set(listed)
    others = {key: value for key, value in saved_state.items() if key not in known}
    if extra := [key for key in others if isinstance(key, int)]:
        raise ValueError(f"this state is damaged: it has buffers of {extra[:5]!r}, which none of its groups lists")
    state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
    absent, cut_off = [], 0
    for g, (saved, group) in enumerate(zip(saved_groups, groups, strict=True)):
        for i, (index, p) in enumerate(zip(saved["params"], group["params"], strict=True)):
            found = saved_state.get(index)
            if found:
                where = f"parameter {i} of group {g}"
                state[p], more = check_state(family, group, p, partial(shapes, g, p), found, where)
                cut_off += more
            elif p.numel():
                absent.append(f"{i} of group {g}")
    apart(iter(state.values()))
    state.update(others)
    notes = list(differences(param_groups, saved_groups, groups))
    if absent and state:
        notes.append(
            f"the checkpoint has no buffers of {len(absent)} parameters (parameter {', '.join(absent[:5])}"
            f"{', ...' * (len(absent) > 5)}): if they had gradients before, their moments are lost"
        )
    if cut_off:
        notes.append(
            f"{cut_off} elements of first moments, from a run with other betas, are larger than 8 bits hold with "
            "these, and became the largest that they hold"
        )
    return Loaded(state, groups, notes)


def through_hooks(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Run the hooks that were registered to see ``state_dict`` before it is loaded, and return what they make of it."""
    state_dict = copy.copy(state_dict)  # hooks may replace its entries
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = hook(optimizer, state_dict)
        state_dict = state_dict if replaced is None else replaced
    return state_dict


def tell(notes: list[str]) -> None:
    """Log a loaded state's notes in one line, on the first rank."""
    if notes and not (dist.is_available() and dist.is_initialized() and dist.get_rank()):
        logger.warning("optimizer state loaded: %s", "; ".join(notes))


# ---------------------------------------------------------------- groups
def groups_of(name: str, family: Family, mine: list[dict[str, Any]], state_dict: Any) -> Iterator[dict[str, Any]]:
    """Return the saved groups if they are those of an optimizer like this one, with a model like its own.

    Raises:
        ValueError: they are not.
    """
    saved = state_dict.get("param_groups") if isinstance(state_dict, Mapping) else None
    if not isinstance(saved, (list, tuple)) or not isinstance(state_dict.get("state"), Mapping):
        raise ValueError(
            "this is not an optimizer's state: expected a dict with 'state' and 'param_groups', as state_dict() gives"
        )
    if len(saved) != len(mine):
        raise ValueError(
            f"loaded state dict has a different number of parameter groups: {len(saved)}, this optimizer {len(mine)}"
        )
    for g, (group, own) in enumerate(zip(saved, mine, strict=True)):
        if not isinstance(group, Mapping) or not isinstance(group.get("params"), (list, tuple)):
            raise ValueError(f"group {g} of the loaded state is damaged: it lists no parameters")
        found = dict(group)
        type_ = found.get("type")
        if not group["params"] and isinstance(type_, str) and type_ in TYPES and scope_of(found["type"]).per_parameter:
            # torch's loading of full state dicts under FSDP2 loses these lists, as they are empty
            # (distributed/checkpoint/state_dict.py flattens and rebuilds the groups)
            found = {key: [] for key in scope_of(found["type"]).keys(TYPES[found["type"]].rule)} | found
        expected = ("type", family.candidate_option, "last_choice", "negative_steps", "count")
        if missing := [key for key in expected if key not in found]:
            raise ValueError(
                f"this state was not saved by {name}: its groups lack {', '.join(missing)}. Another optimizer's "
                "moments can't be continued. To go on from the weights alone, resume without optimizer state: delete "
                "optimizer.pt from the checkpoint (under FSDP its optimizer directory; DeepSpeed's own state can't be "
                "taken apart: start a new run from the saved model)"
            )
        if found["count"] != own["count"] or len(found["params"]) != len(own["params"]):
            counts = [other.get("count") if isinstance(other, Mapping) else None for other in saved]
            raise ValueError(
                f"this state is of another model: its groups hold {counts} parameters, this optimizer's "
                f"{[other['count'] for other in mine]} (loaded state dict contains a parameter group that doesn't "
                "match the size of optimizer's group)"
            )
        yield found


def merge(options: Mapping[str, Declared], saved: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    """Return the group that ``mine`` becomes: the checkpoint's options, except those that this run decides.

    Which kernel does the step depends on the machine at hand, and how to decay depends on the class (as in
    torch.optim.AdamW's ``__setstate__``). Some others come from the run if the checkpoint has the same ``type``: the
    state fits any value of them.
    """
    policies = ("run", "run, same type") if saved["type"] == mine["type"] else ("run",)
    decided_here = [name for name, (option, _) in options.items() if option.resumed in policies]
    # what a version before this one did not have is as in this run, but what steps leave behind is the checkpoint's
    merged = {key: value for key, value in mine.items() if key not in saved and key not in DTYPES}
    merged |= copy.deepcopy(saved)
    merged |= {key: mine[key] for key in decided_here if key in mine}
    merged["params"] = mine["params"]
    if "K" not in saved:  # version 0.1.0 had none, and took two bare numbers in a list for one pair
        merged.pop("K", None)
        if len(betas := merged.get("betas", ())) == 2 and all(map(is_number, betas)):
            merged["betas"] = tuple(betas)
    return merged


def check_group(family: Family, options: Mapping[str, Declared], group: dict[str, Any]) -> None:
    """Check the options of a merged group and the values that steps have left in it, and fill in ``K``.

    Raises:
        ValueError: something is out of range, or contradicts the rest.
    """
    validate(family, options, group)
    K = len(family.parse(group))
    if group.setdefault("K", K) != K:
        raise ValueError(f"it has {K} candidates in {family.candidate_option}, and {group['K']} as their number")
    for key in scope_of(group["type"]).keys(TYPES[group["type"]].rule):
        if key not in group:
            raise ValueError(f"it lacks {key}")
        check_decided(group, key)


def differences(mine: list[dict[str, Any]], saved: list[dict[str, Any]], merged: list[dict[str, Any]]) -> Iterator[str]:
    """Say in words which options differ between this run and the checkpoint, and which of the two values were taken."""
    from_checkpoint: dict[str, str] = {}
    from_run: dict[str, str] = {}
    own = ("params", "param_names", *DTYPES, "count", "K", "initial_lr", "last_batch_size", "first_lr", "carried")
    for here, there, taken in zip(mine, saved, merged, strict=True):
        for key in here:
            if key in own or key not in there:
                continue
            ours, theirs = here[key], there[key]
            if key == "lr":  # that of the beginning: a scheduler has changed it since
                ours, theirs = here.get("initial_lr", ours), there.get("initial_lr", theirs)
            if same(ours, theirs):
                continue
            if same(taken[key], there[key]):
                from_checkpoint.setdefault(key, f"{key}={theirs!r} (this run: {ours!r})")
            else:
                from_run.setdefault(key, f"{key}={ours!r} (checkpoint: {theirs!r})")
    for source, options in (("the checkpoint", from_checkpoint), ("this run", from_run)):
        if options:
            yield f"from {source}: {', '.join(options.values())}"


def same(one: Any, other: Any) -> bool:
    """Whether two options are equal; a tuple may equal a list, and a number a tensor of one number."""
    return plain(one) == plain(other)


def plain(value: Any, depth: int = 3) -> Any:
    """Return ``value`` as numbers and tuples, and as text below ``depth``, because a damaged list may hold itself."""
    if isinstance(value, Tensor):
        return value.tolist()
    if not isinstance(value, (list, tuple)):
        return value
    return tuple(plain(item, depth - 1) for item in value) if depth else repr(value)


# ---------------------------------------------------------------- buffers
def check_state(
    family: Family,
    group: dict[str, Any],
    p: Tensor,
    shapes: Callable[[], Sequence[torch.Size]],
    saved: Any,
    where: str,
) -> tuple[dict[str, Any], int]:
    """Make the state of ``p`` from what was saved for it, in the dtypes and on the devices that kernels expect.

    ``shapes`` gives the shapes of the whole parameters that ``p`` has parts of.

    Returns:
        The state, and the number of elements that had to be cut off for 8 bits.

    Raises:
        ValueError: a buffer is missing or unknown, or has a wrong shape, kind or sign.
    """
    if not isinstance(saved, Mapping):
        raise ValueError(f"the state of {where} is a {type(saved).__name__}, not a dictionary")
    saved = named(saved)
    declared = family.buffers(group)
    expected = {"step", *(buffer.name for buffer in declared)} if declared else set()
    # before version 0.3.0 a candidate without memory had a buffer, too
    needless = {buffer.name for buffer in family.buffers({**group, "type": "default"})} - expected
    if set(saved) - needless != expected:
        missing, unknown = sorted(expected - set(saved)), sorted(map(str, set(saved) - expected - needless))
        raise ValueError(
            f"the state of {where} does not belong to its group's {group['K']} candidates: it lacks "
            f"{', '.join(missing) or 'nothing'}, and has {', '.join(unknown) or 'nothing'} beside them"
        )
    if not expected:
        return {}, 0
    dtype, device = counter_dtype_and_device(family, declared, group, p)
    state: dict[str, Any] = {"step": torch.tensor(count_of(saved["step"], where), dtype=dtype, device=device)}
    checked: dict[str, Tensor] = {}
    for buffer in declared:
        found, shape, what = dequantized(saved[buffer.name]), p.shape, f"{buffer.name} of {where}"
        if buffer.shape is not None:
            own = [buffer.shape(whole) for whole in shapes()]
            shape = own[0] if len(own) == 1 else torch.Size([sum(each.numel() for each in own)])
            if isinstance(found, bytes):
                found = unpack(found, shape, what)
        check_buffer(found, p, shape, buffer, what)
        if buffer.nonnegative and not p.is_meta and bool((local_part(found) < 0).any()):
            raise ValueError(f"{what} is damaged: it has negative elements, which it never gets")
        checked[buffer.name] = found.detach()
    dtypes = {buffer.name: buffer_dtype(buffer, group, p) for buffer in declared}
    recoded, cut_off = recode(declared, checked, dtypes)
    for buffer in declared:
        state[buffer.name] = converted(recoded[buffer.name], p, dtypes[buffer.name], buffer.shape is None)
    return state, cut_off


def apart(buffers: Iterator[dict[str, Any]]) -> None:
    """Give each of ``buffers`` memory of its own: if a file has one tensor twice, a step would update it twice."""
    seen = set()
    for state in buffers:
        for name, buffer in state.items():
            if not (plain_part := local_part(buffer)).numel() or plain_part.is_meta:
                continue
            address = plain_part.untyped_storage().data_ptr()
            if address in seen:
                state[name] = buffer.clone()
            seen.add(address)


def count_of(step: Any, where: str) -> int:
    """Return a saved count of steps, of whatever type, as an int. Raises ValueError if it is no count."""
    if isinstance(step, Tensor):
        step = step.item() if is_plain(step) and step.numel() == 1 and not step.is_complex() else None
    if not isinstance(step, (int, float)) or not isfinite(step) or step < 0 or step != int(step) or step > 2**53:
        raise ValueError(f"step of {where} is {step!r}; expected the number of its steps")
    return int(step)


def check_buffer(buffer: Any, p: Tensor, shape: torch.Size, declared: Buffer, what: str) -> None:
    """Raise ValueError unless ``buffer`` can be a buffer of ``p``.

    Args:
        buffer: what was saved.
        p: the parameter.
        shape: the shape that it must have.
        declared: what it is. If it has no shape of its own, it is cut over the ranks like the parameter.
        what: its name, for the message.
    """
    if not isinstance(buffer, Tensor):
        raise ValueError(f"{what} is a {type(buffer).__name__}, not a tensor")
    if not (is_plain(buffer) or (buffer.is_meta and p.is_meta)):
        kind = "nested" if buffer.is_nested else "quantized" if buffer.is_quantized else f"{buffer.layout}"
        raise ValueError(f"{what} is a {'meta' if buffer.is_meta else kind} tensor; expected an ordinary one")
    cut_well = cut_alike(buffer, p) if declared.shape is None else local_part(buffer) is buffer
    if buffer.shape != shape or not cut_well:
        raise ValueError(
            f"this state is of another model, or of another sharding of it: {what} has the shape "
            f"{tuple(buffer.shape)}, the parameter {tuple(p.shape)}"
        )
    if not buffer.is_floating_point() and not (declared.relative is not None and buffer.dtype == torch.uint8):
        raise ValueError(f"{what} is a tensor of {buffer.dtype}; expected floating point numbers")


def is_plain(tensor: Tensor) -> bool:
    """Whether ``tensor`` holds its numbers one by one."""
    return not (tensor.is_nested or tensor.is_quantized or tensor.is_meta) and tensor.layout == torch.strided


def converted(buffer: Tensor, p: Tensor, dtype: torch.dtype, like_p: bool) -> Tensor:
    """Move ``buffer`` to ``p.device``, in ``dtype``; ``like_p``: whether it has the shape of ``p``."""
    buffer = buffer.to(p.device, dtype)
    if not like_p:
        return buffer.contiguous()
    # kernels read memory as it lies: in the order of the parameter's, each element once
    return buffer if buffer.stride() == p.stride() else torch.empty_like(p, dtype=dtype).copy_(buffer)


# ---------------------------------------------------------------- older pickles
ADDED_SINCE_0_1_0 = {"maximize": False, "differentiable": False}


def upgrade(
    family: Family,
    defaults: dict[str, Any],
    groups: list[dict[str, Any]],
    states: MutableMapping[Tensor, dict[str, Any]],
) -> None:
    """Add what groups pickled by version 0.1.0 lack, and convert their counts of steps to what the kernels read."""
    for key, value in ADDED_SINCE_0_1_0.items():
        defaults.setdefault(key, value)
    for group in groups:
        if "K" in group:
            continue
        for key, value in ADDED_SINCE_0_1_0.items():
            group.setdefault(key, value)
        group["K"] = len(family.parse(group))
        for p in group["params"]:
            if state := states.get(p):
                dtype, device = counter_dtype_and_device(family, family.buffers(group), group, p)
                state["step"] = torch.as_tensor(state["step"]).to(device, dtype)
