"""From a state of torch.optim's Adam, AdamW or SGD to one of GAP's, back, and between GAP's own with other candidates.

A first moment is an estimate of the mean gradient, whatever its memory. So each candidate's begins as torch's, rescaled
to be the same estimate: a moving average by what its bias correction divides by, a momentum buffer by its gain for a
constant gradient. A candidate with torch's own decay rate begins bit for bit where torch was.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from .codes import widened
from .family import Family, TorchsDefault
from .scope import rule_of, scope_of


def from_torch(
    family: Family, param_groups: list[dict[str, Any]], state_dict: Any
) -> tuple[dict[str, Any], str | None]:
    """Turn a state of torch's optimizer of this kind into one that can be loaded; leave any other as it is.

    Args:
        family: the family of the optimizer that it is for.
        param_groups: that optimizer's groups.
        state_dict: what is to be loaded.

    Returns:
        The state, and what has been done to it in words; None if nothing.

    Raises:
        ValueError: the state is damaged, or has something that GAP has no counterpart of.
    """
    if not isinstance(family, TorchsDefault) or not is_torchs(family, param_groups, state_dict):
        return state_dict, None
    state, groups = dict(state_dict["state"]), []
    for g, (saved, mine) in enumerate(zip(state_dict["param_groups"], param_groups, strict=True)):
        for key in saved["params"]:
            try:
                if found := {name: value for name, value in state.pop(key, {}).items() if value is not None}:
                    state[key] = family.from_torch(mine, saved, found)
            except (AttributeError, KeyError, OverflowError, RuntimeError, TypeError) as error:
                said = f"{type(error).__name__}: {error}"
                raise ValueError(
                    f"group {g} of this state of torch.optim's {family.name} is damaged ({said})"
                ) from error
        groups.append(begun(family, saved, mine))
    kept = ", ".join(family.shared_with_torch)
    note = (
        f"the checkpoint is of torch.optim's {family.name}: each candidate's first moment begins as torch's, rescaled "
        f"to the same estimate of the mean gradient; choices and counters begin anew; {kept} are the checkpoint's"
    )
    return {**state_dict, "state": state, "param_groups": groups}, note


def begun(family: TorchsDefault, saved: Mapping[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    """Return the group ``mine`` with the options that go with the moments of ``saved``, and no choices yet."""
    taken = {name: saved[name] for name in (*family.shared_with_torch, "initial_lr") if name in saved}
    memory = scope_of(mine["type"]).memory(mine["count"], mine["K"], None, rule_of(family, mine))
    return {**mine, **taken, **memory, "params": saved["params"]}


def to_candidates(
    family: Family, param_groups: list[dict[str, Any]], state_dict: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Turn a state into one for an optimizer of the same family with other candidates, or of another ``type``.

    A candidate with the decay rates of one that was there goes on with its moments. Any other begins as the one that
    was applied to the parameter last, rescaled; if that kept no moment, as the last listed one that did. Choices begin
    anew.

    Args:
        family: the family of the optimizer that it is for.
        param_groups: that optimizer's groups.
        state_dict: what an optimizer of the family saved.

    Returns:
        The state, and what has been done to it in words, one for each group with something to do.

    Raises:
        TypeError: this is not known for the family.
        ValueError: the state is another optimizer's or another model's, or one whose tensors hold several parameters.
    """
    if not isinstance(family, TorchsDefault):
        raise TypeError(f"a state of the {family.name} family can't be converted to other candidates")
    try:
        state, groups, notes = dict(state_dict["state"]), [], []
        if len(state_dict["param_groups"]) != len(param_groups):
            raise TypeError(f"it has {len(state_dict['param_groups'])} parameter groups, not {len(param_groups)}")
        for g, (saved, mine) in enumerate(zip(state_dict["param_groups"], param_groups, strict=True)):
            if "last_choice" not in saved or not differ(family, saved, mine):  # torch's is converted when it is loaded
                groups.append(saved)
                continue
            for key, chosen in zip(saved["params"], choices(g, saved), strict=True):
                if found := state.get(key):
                    state[key] = moved(family, saved, mine, found, chosen)
            groups.append(begun(family, saved, mine))
            notes.append(
                f"group {g} of the checkpoint has {told(family, saved)}, this run {told(family, mine)}: candidates "
                "that were there go on, others begin as the one applied last, rescaled to the same estimate of the "
                "mean gradient; choices and counters begin anew"
            )
    except (AttributeError, KeyError, OverflowError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"this state can't be converted to {told(family, param_groups[0])}: it is of another optimizer or damaged "
            f"({type(error).__name__}: {error})"
        ) from error
    return {**state_dict, "state": state, "param_groups": groups}, notes


def differ(family: Family, saved: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    """Whether two groups have other candidates, or other types."""
    return bool(saved["type"] != mine["type"] or family.parse(saved) != family.parse(mine))


def told(family: Family, group: Mapping[str, Any]) -> str:
    """The type and the candidates of a group."""
    return f"type={group['type']!r} and {family.candidate_option}={group[family.candidate_option]!r}"


def moved(
    family: TorchsDefault, saved: Mapping[str, Any], mine: Mapping[str, Any], found: Mapping[str, Any], chosen: int
) -> dict[str, Any]:
    """Return the state that a parameter begins with in the group ``mine``, made from that in the group ``saved``."""
    kept, found = family.kept(saved), widened(family.buffers(saved), found)
    donor = chosen if chosen in kept else max(kept, default=chosen)
    new = family.from_torch(mine, family.group_for_torch(saved, donor), family.to_torch(saved, found, donor, donor))
    there = {memory: name for name, memory in family.memories(saved).items()}
    same = {name: found[there[memory]] for name, memory in family.memories(mine).items() if memory in there}
    return {**new, **same, "step": found["step"]}


def choices(g: int, group: Mapping[str, Any]) -> list[int]:
    """Return the last choice of each tensor of a group.

    Raises:
        ValueError: the tensors are flat pieces of several parameters, which have different choices.
    """
    keys, chosen = group["params"], group["last_choice"]
    each = chosen if isinstance(chosen, list) else [chosen] * len(keys)
    if len(each) == len(keys):
        return each
    if len(set(each)) > 1:
        raise ValueError(
            f"the {len(keys)} tensors of group {g} hold {len(each)} parameters with different choices; gather the "
            "state by consolidated_state_dict first"
        )
    return each[:1] * len(keys)


def is_torchs(family: TorchsDefault, param_groups: list[dict[str, Any]], state_dict: Any) -> bool:
    """Whether this is a state of torch's optimizer of the family's kind, with as many groups and parameters."""
    groups = state_dict.get("param_groups") if isinstance(state_dict, Mapping) else None
    if not isinstance(groups, (list, tuple)) or len(groups) != len(param_groups):
        return False
    if not isinstance(state_dict.get("state"), Mapping):
        return False
    needed = family.of_torch.keys() - {"decoupled_weight_decay"}  # which torch has since 2.7
    for saved, mine in zip(groups, param_groups, strict=True):
        if not isinstance(saved, Mapping) or "last_choice" in saved or not needed <= saved.keys():
            return False
        if not isinstance(saved.get("params"), (list, tuple)) or len(saved["params"]) != len(mine["params"]):
            return False
    known = {"step", *family.moments_of_torch}
    return all(isinstance(found, Mapping) and found.keys() <= known for found in state_dict["state"].values())


def to_torch(family: Family, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a state of a gap optimizer into one that torch.optim's Adam, AdamW or SGD loads.

    Each parameter's moments are those of the candidate that was applied to it last (in a mix, of the one with the
    largest weight). A group has the decay rates of the candidate that was applied most often in it last; the moments of
    parameters with another one are rescaled, as in the other direction.

    Args:
        family: the family of the optimizer that it comes from.
        state_dict: what ``state_dict`` or ``consolidated_state_dict`` returned.

    Raises:
        TypeError: torch has no optimizer of this kind.
        ValueError: the tensors are flat pieces of several parameters, which have different choices.
    """
    if not isinstance(family, TorchsDefault):
        raise TypeError(f"torch.optim has no optimizer of the {family.name} family")
    state, groups = {}, []
    for g, group in enumerate(state_dict["param_groups"]):
        keys, each = group["params"], choices(g, group)
        chosen = Counter(each).most_common(1)[0][0] if each else 0
        groups.append({**family.of_torch, **family.group_for_torch(group, chosen), "params": keys})
        groups[-1] |= {name: group[name] for name in (*family.shared_with_torch, "initial_lr") if name in group}
        for key, mine in zip(keys, each, strict=True):
            if found := state_dict["state"].get(key):
                state[key] = family.to_torch(group, widened(family.buffers(group), found), mine, chosen)
    return {"state": state, "param_groups": groups}
