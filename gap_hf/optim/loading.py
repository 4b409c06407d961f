"""From a saved state to an optimizer's: everything is checked before anything is changed.

``torch.optim.Optimizer.load_state_dict`` casts all buffers to the parameter's dtype, and takes what it is given; here
the buffers keep their precision, and a state that could not be stepped is refused with the optimizer as it was.
"""

import copy
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ..sharding import cut_alike, local_part
from .groups import check_decided
from .kernels import eight_bit
from .options import is_number, validate_together

logger = logging.getLogger(__name__)

OF_THIS_RUN = ("foreach", "fused", "capturable", "decoupled_weight_decay")
"""Options that this run decides: which kernel does the step is a matter of the machine at hand, and how to decay one of
the class (torch.optim.AdamW's ``__setstate__`` does so, too)."""

OF_THIS_RUN_IF_SAME_TYPE = (
    "soft_reset", "hysteresis_threshold", "second_order_momentum_reset_mode", "J_ema", "lr_modulation", "state_dtype",
)  # fmt: skip
"""Those that it decides where the checkpoint has its ``type``: the state fits whatever they are."""

EMPTY_LISTS: dict[str, Any] = {"last_choice": [], "negative_steps": []}
"""What torch's loading of full state dicts under FSDP2 loses of a group without parameters
(``distributed/checkpoint/state_dict.py`` flattens and rebuilds the groups)."""


class Loadable(Protocol):
    """What loading asks of an optimizer."""

    param_groups: list[dict[str, Any]]

    @property
    def candidate_option(self) -> str: ...
    def candidates(self, group: dict[str, Any]) -> list[Any]: ...
    def validate(self, group: dict[str, Any]) -> None: ...
    def buffers(self, group: dict[str, Any]) -> tuple[list[str], list[str]]: ...
    def buffer_dtypes(self, group: dict[str, Any], key: Tensor) -> dict[str, torch.dtype | None]: ...
    def step_dtype_and_device(self, group: dict[str, Any], key: Tensor) -> tuple[torch.dtype, torch.device]: ...


class Loaded(NamedTuple):
    """A checked state, ready to take the place of the optimizer's.

    Attributes:
        state: by parameter.
        param_groups: with the optimizer's own parameters.
        notes: what somebody should know who resumes a run with it.
    """

    state: defaultdict[Tensor, dict[str, Any]]
    param_groups: list[dict[str, Any]]
    notes: list[str]


def check(optimizer: Loadable, state_dict: Any) -> Loaded:
    """What ``optimizer`` becomes by loading ``state_dict``; nothing is changed.

    Raises:
        ValueError: the state is another optimizer's or another model's, or is damaged.
    """
    saved_groups = list(groups_of(optimizer, state_dict))
    groups = [merge(optimizer, saved, mine) for saved, mine in zip(saved_groups, optimizer.param_groups, strict=True)]
    for g, group in enumerate(groups):
        try:
            check_group(optimizer, group)
        except (TypeError, KeyError, OverflowError, RuntimeError, ValueError) as error:
            raise ValueError(f"group {g} of the loaded state: {error}") from error
    if groups:
        validate_together(groups, [group["K"] for group in groups])
    saved_state, listed = state_dict["state"], [index for saved in saved_groups for index in saved["params"]]
    if not all(isinstance(index, (int, str)) for index in listed) or len(set(listed)) < len(listed):
        raise ValueError("this state is damaged: its groups list a parameter twice, or something that is none")
    # what is filed under other keys is no parameter's; torch hands it on, too
    others = {key: value for key, value in saved_state.items() if key not in set(listed)}
    if extra := [key for key in others if isinstance(key, int)]:
        raise ValueError(f"this state is damaged: it has buffers of {extra[:5]!r}, which none of its groups lists")
    state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
    absent = []
    for g, (saved, group) in enumerate(zip(saved_groups, groups, strict=True)):
        for i, (index, p) in enumerate(zip(saved["params"], group["params"], strict=True)):
            found = saved_state.get(index)
            if found:
                state[p] = check_state(optimizer, group, p, found, f"parameter {i} of group {g}")
            elif p.numel():
                absent.append(f"{i} of group {g}")
    apart(iter(state.values()))
    state.update(others)
    notes = list(differences(optimizer.param_groups, saved_groups, groups))
    if absent and state:
        notes.append(
            f"the checkpoint has no buffers of {len(absent)} parameters (parameter {', '.join(absent[:5])}"
            f"{', ...' * (len(absent) > 5)}): if they had gradients before, their moments are lost"
        )
    return Loaded(state, groups, notes)


def tell(notes: list[str]) -> None:
    """Log what is to be known of a loaded state, in one line, on the first rank."""
    if notes and not (dist.is_available() and dist.is_initialized() and dist.get_rank()):
        logger.warning("optimizer state loaded: %s", "; ".join(notes))


# ---------------------------------------------------------------- groups
def groups_of(optimizer: Loadable, state_dict: Any) -> Iterator[dict[str, Any]]:
    """The saved groups, if they are of an optimizer like this one and of a model like its own.

    Raises:
        ValueError: they are not.
    """
    name, mine = type(optimizer).__name__, optimizer.param_groups
    saved = state_dict.get("param_groups") if isinstance(state_dict, Mapping) else None
    if not isinstance(saved, (list, tuple)) or not isinstance(state_dict.get("state"), Mapping):
        raise ValueError(
            "this is no optimizer's state: expected a dictionary with 'state' and 'param_groups', as state_dict() gives"
        )
    if len(saved) != len(mine):
        raise ValueError(
            f"loaded state dict has a different number of parameter groups: {len(saved)}, this optimizer {len(mine)}"
        )
    for g, (group, own) in enumerate(zip(saved, mine, strict=True)):
        if not isinstance(group, Mapping) or not isinstance(group.get("params"), (list, tuple)):
            raise ValueError(f"group {g} of the loaded state is damaged: it lists no parameters")
        found = dict(group) if group["params"] else {**EMPTY_LISTS, **group}
        expected = ("type", optimizer.candidate_option, "last_choice", "negative_steps", "count")
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


def merge(optimizer: Loadable, saved: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    """The group that ``mine`` becomes: the checkpoint's options, but for those that this run decides."""
    same_type = saved["type"] == mine["type"]
    decided_here = (*OF_THIS_RUN, *(OF_THIS_RUN_IF_SAME_TYPE if same_type else ()))
    merged = {key: value for key, value in mine.items() if key not in saved and key != "J_bar"} | copy.deepcopy(saved)
    merged |= {key: mine[key] for key in decided_here if key in mine}
    merged["params"] = mine["params"]
    if "K" not in saved:  # version 0.1.0 had none, and took two bare numbers in a list for one pair
        merged.pop("K", None)
        if len(betas := merged.get("betas", ())) == 2 and all(map(is_number, betas)):
            merged["betas"] = tuple(betas)
    return merged


def check_group(optimizer: Loadable, group: dict[str, Any]) -> None:
    """Check the options of a merged group, and what steps have left in it. Fills in ``K``.

    Raises:
        ValueError: something is out of range, or at odds with the rest.
    """
    optimizer.validate(group)
    K = len(optimizer.candidates(group))
    if group.setdefault("K", K) != K:
        raise ValueError(f"it has {K} candidates in {optimizer.candidate_option}, and {group['K']} as their number")
    for key in ("last_choice", "negative_steps"):
        check_decided(group, key)
    if group["type"] != "switch_parameter_wise":
        if "J_bar" not in group:
            raise ValueError("it lacks J_bar")
        check_decided(group, "J_bar")


def differences(mine: list[dict[str, Any]], saved: list[dict[str, Any]], merged: list[dict[str, Any]]) -> Iterator[str]:
    """In words, which options differ between this run and the checkpoint, and which of the two were taken."""
    from_checkpoint: dict[str, str] = {}
    from_run: dict[str, str] = {}
    own = ("params", "param_names", "last_choice", "negative_steps", "J_bar", "count", "K", "initial_lr")
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
    """Whether two options are equal; tuples and lists, numbers and tensors of one number count as alike."""
    return plain(one) == plain(other)


def plain(value: Any, depth: int = 3) -> Any:
    """``value`` as numbers and tuples; text below ``depth``, because a damaged list may hold itself."""
    if isinstance(value, Tensor):
        return value.tolist()
    if not isinstance(value, (list, tuple)):
        return value
    return tuple(plain(item, depth - 1) for item in value) if depth else repr(value)


# ---------------------------------------------------------------- buffers
def check_state(optimizer: Loadable, group: dict[str, Any], p: Tensor, saved: Any, where: str) -> dict[str, Any]:
    """The state of ``p`` from what was saved for it, in the dtypes and on the devices that kernels expect.

    Raises:
        ValueError: a buffer is missing or unknown, or of another shape, kind or sign.
    """
    if not isinstance(saved, Mapping):
        raise ValueError(f"the state of {where} is a {type(saved).__name__}, not a dictionary")
    first, second = optimizer.buffers(group)
    expected = {"step", *first, *second} if first else set()
    if set(saved) != expected:
        missing, unknown = sorted(expected - set(saved)), sorted(map(str, set(saved) - expected))
        raise ValueError(
            f"the state of {where} does not belong to its group's {group['K']} candidates: it lacks "
            f"{', '.join(missing) or 'nothing'}, and has {', '.join(unknown) or 'nothing'} beside them"
        )
    if not expected:
        return {}
    dtype, device = optimizer.step_dtype_and_device(group, p)
    state: dict[str, Any] = {"step": torch.tensor(count_of(saved["step"], where), dtype=dtype, device=device)}
    for name, dtype_or_8bit in optimizer.buffer_dtypes(group, p).items():
        check_buffer(saved[name], p, f"{name} of {where}")
        if name in second and not p.is_meta and bool((local_part(saved[name]) < 0).any()):
            raise ValueError(f"{name} of {where} is damaged: it has negative elements, and is a mean of squares")
        state[name] = converted(saved[name].detach(), p, dtype_or_8bit)
    return state


def apart(buffers: Iterator[dict[str, Any]]) -> None:
    """Give each of the states ``buffers`` memory of its own: what is one tensor in a file would be updated twice."""
    seen = set()
    for state in buffers:
        for name, buffer in state.items():
            if eight_bit.is_eight_bit(buffer) or not (plain_part := local_part(buffer)).numel() or plain_part.is_meta:
                continue
            address = plain_part.untyped_storage().data_ptr()
            if address in seen:
                state[name] = buffer.clone()
            seen.add(address)


def count_of(step: Any, where: str) -> int:
    """A saved count of steps, of whatever type, as an int. Raises ValueError where it is none."""
    if isinstance(step, Tensor):
        step = step.item() if is_plain(step) and step.numel() == 1 and not step.is_complex() else None
    if not isinstance(step, (int, float)) or not isfinite(step) or step < 0 or step != int(step) or step > 2**53:
        raise ValueError(f"step of {where} is {step!r}; expected the number of its steps")
    return int(step)


def check_buffer(buffer: Any, p: Tensor, what: str) -> None:
    """Raise ValueError unless ``buffer`` can be a moment of ``p``."""
    if not isinstance(buffer, Tensor):
        raise ValueError(f"{what} is a {type(buffer).__name__}, not a tensor")
    if not eight_bit.is_eight_bit(buffer) and not (is_plain(buffer) or (buffer.is_meta and p.is_meta)):
        kind = "nested" if buffer.is_nested else "quantized" if buffer.is_quantized else f"{buffer.layout}"
        raise ValueError(f"{what} is a {'meta' if buffer.is_meta else kind} tensor; expected an ordinary one")
    if buffer.shape != p.shape or not cut_alike(buffer, p):
        raise ValueError(
            f"this state is of another model, or of another sharding of it: {what} has the shape "
            f"{tuple(buffer.shape)}, the parameter {tuple(p.shape)}"
        )
    if not eight_bit.is_eight_bit(buffer) and not buffer.is_floating_point():
        raise ValueError(f"{what} is a tensor of {buffer.dtype}; expected floating point numbers")


def is_plain(tensor: Tensor) -> bool:
    """Whether ``tensor`` holds its numbers one by one."""
    return not (tensor.is_nested or tensor.is_quantized or tensor.is_meta) and tensor.layout == torch.strided


def converted(buffer: Tensor, p: Tensor, dtype: torch.dtype | None) -> Tensor:
    """``buffer`` on the device of ``p``, in ``dtype``; None stands for 8 bits."""
    if dtype is None:
        template = eight_bit.zeros_like(p)
        if eight_bit.is_eight_bit(buffer) and eight_bit.is_eight_bit(template):
            return buffer.to(p.device)
        wide = buffer.dequantize() if eight_bit.is_eight_bit(buffer) else buffer
        return template.copy_(wide.to(p.device, torch.float32))
    if eight_bit.is_eight_bit(buffer):
        buffer = buffer.dequantize()
    buffer = buffer.to(p.device, dtype)
    # kernels read memory as it lies: in the order of the parameter's, each element once
    return buffer if buffer.stride() == p.stride() else torch.empty_like(p, dtype=dtype).copy_(buffer)
