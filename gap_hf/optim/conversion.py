"""From a state of torch.optim's Adam, AdamW or SGD to one of GAP's, and back.

A first moment is an estimate of the mean gradient, whatever its memory. So each candidate's begins as torch's, rescaled
to be the same estimate: a moving average by what its bias correction divides by, a momentum buffer by its gain for a
constant gradient. A candidate with torch's own decay rate begins bit for bit where torch was.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

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
        taken = {name: saved[name] for name in (*family.shared_with_torch, "initial_lr") if name in saved}
        memory = scope_of(mine["type"]).memory(mine["count"], mine["K"], None, rule_of(family, mine))
        groups.append({**mine, **taken, **memory, "params": saved["params"]})
    kept = ", ".join(family.shared_with_torch)
    note = (
        f"the checkpoint is of torch.optim's {family.name}: each candidate's first moment begins as torch's, rescaled "
        f"to the same estimate of the mean gradient; choices and counters begin anew; {kept} are the checkpoint's"
    )
    return {**state_dict, "state": state, "param_groups": groups}, note


def is_torchs(family: TorchsDefault, param_groups: list[dict[str, Any]], state_dict: Any) -> bool:
    """Whether this is a state of torch's optimizer of the family's kind, with as many groups and parameters."""
    groups = state_dict.get("param_groups") if isinstance(state_dict, Mapping) else None
    if not isinstance(groups, (list, tuple)) or len(groups) != len(param_groups):
        return False
    if not isinstance(state_dict.get("state"), Mapping):
        return False
    for saved, mine in zip(groups, param_groups, strict=True):
        if not isinstance(saved, Mapping) or "last_choice" in saved or not family.of_torch.keys() <= saved.keys():
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
        keys, choices = group["params"], group["last_choice"]
        each = choices if isinstance(choices, list) else [choices] * len(keys)
        if len(each) != len(keys):
            if len(set(each)) > 1:
                raise ValueError(
                    f"the {len(keys)} tensors of group {g} hold {len(each)} parameters with different choices; gather "
                    "the state by consolidated_state_dict first"
                )
            each = each[:1] * len(keys)
        chosen = Counter(each).most_common(1)[0][0] if each else 0
        groups.append({**family.of_torch, **family.group_for_torch(group, chosen), "params": keys})
        groups[-1] |= {name: group[name] for name in (*family.shared_with_torch, "initial_lr") if name in group}
        for key, mine in zip(keys, each, strict=True):
            if found := state_dict["state"].get(key):
                state[key] = family.to_torch(group, found, mine, chosen)
    return {"state": state, "param_groups": groups}
