"""The options that all families have: which values are allowed, and what must agree between groups."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .kernels import eight_bit

TYPES = ("default", "switch", "switch_parameter_wise")
STATE_DTYPES = (None, "float32", "bfloat16", "8bit")

FLAGS = ("lr_modulation", "maximize", "capturable")
KERNEL_FLAGS = ("foreach", "fused")

SHARED_BY_SWITCH = ("J_ema", "hysteresis_threshold")
"""Options that must agree in all groups under ``type='switch'``, because there is one choice for all."""


def check_option(name: str, value: Any, good: bool, expected: str) -> None:
    """Raise a ValueError that names the option, its value and what was expected, unless ``good``."""
    if not good:
        raise ValueError(f"{name}={value!r} is out of range; expected {expected}")


def is_number(value: Any) -> bool:
    """Whether ``value`` is a real number that a float can hold; NaN and infinity are, True is not."""
    if type(value) is float:  # nearly always; candidates are read at every step
        return True
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_count(value: Any) -> bool:
    """Whether ``value`` is a whole number from 0 on that 64 bits can hold, of a type that has no others."""
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) < 2**63


def check_flags(group: dict[str, Any], names: Sequence[str]) -> None:
    """Raise ValueError unless the options ``names`` are true or false."""
    for name in names:
        value = group[name]
        check_option(name, value, isinstance(value, bool), "True or False")


def validate(group: dict[str, Any], K: int) -> None:
    """Check the options of ``group``, which has ``K`` candidates.

    Raises:
        ValueError: one is of a wrong type, out of range, or at odds with another.
        ImportError: ``state_dtype='8bit'`` without torchao.
    """
    if group["type"] not in TYPES:
        raise ValueError(f"type={group['type']!r} is unknown; expected one of {', '.join(map(repr, TYPES))}")
    lr = group["lr"]
    if isinstance(lr, Tensor):
        plain = lr.is_floating_point() and lr.layout == torch.strided and not lr.is_meta and not lr.is_nested
        check_option("lr", lr, plain and lr.numel() == 1 and float(lr) >= 0, "a number >= 0, or a tensor of one")
    else:
        check_option("lr", lr, is_number(lr) and lr >= 0, "a number >= 0")
    decay, J_ema, soft_reset = group["weight_decay"], group["J_ema"], group["soft_reset"]
    check_option("weight_decay", decay, is_number(decay) and decay >= 0, "a number >= 0")
    check_option("J_ema", J_ema, is_number(J_ema) and 0 <= J_ema < 1, "a number in [0, 1)")
    check_option("soft_reset", soft_reset, is_number(soft_reset) and 0 <= soft_reset <= 1, "a number in [0, 1]")
    threshold = group["hysteresis_threshold"]
    check_option(
        "hysteresis_threshold", threshold, is_count(threshold) and threshold >= 1, "a whole number of steps >= 1"
    )
    check_flags(group, FLAGS)
    check_flags(group, [name for name in KERNEL_FLAGS if group[name] is not None])
    if group["differentiable"]:
        raise ValueError(
            "differentiable=True is not supported: the step works in place, on plain memory, and no gradient flows "
            "through it. Leave it out, or use torch.optim's own classes for that"
        )
    if group["type"] == "switch_parameter_wise" and J_ema:
        raise ValueError(
            f"J_ema={J_ema} averages the global score, which type='switch_parameter_wise' does not have; "
            "set J_ema=0 or type='switch'"
        )
    if group["foreach"] and group["fused"]:
        raise ValueError("foreach=True and fused=True exclude each other; give one of them, or neither")
    validate_state_dtype(group)
    if group["type"] == "default" and K > 1:
        raise ValueError(
            f"type='default' takes one candidate, got {K}: give a single one, or set type='switch' "
            "or type='switch_parameter_wise' to choose among them"
        )


def validate_state_dtype(group: dict[str, Any]) -> None:
    """Check ``state_dtype``, and that the other options go with it. Raises as ``validate``."""
    state_dtype = group["state_dtype"]
    expected = ", ".join(map(repr, STATE_DTYPES))
    check_option("state_dtype", state_dtype, state_dtype in STATE_DTYPES, f"one of {expected}")
    if state_dtype == "8bit":
        eight_bit.tensor_class()
        for flag in (*KERNEL_FLAGS, "capturable"):
            if group[flag]:
                raise ValueError(f"state_dtype='8bit' is done tensor by tensor; leave {flag}=True out")
    if state_dtype and group["type"] == "default":
        raise ValueError(
            f"state_dtype={state_dtype!r} is not for type='default', which is torch.optim's own step and keeps its "
            "state in the parameter's dtype"
        )


def validate_together(groups: Sequence[dict[str, Any]], counts: Sequence[int]) -> None:
    """Check what must agree between ``groups``, which have ``counts`` candidates each. Raises ValueError."""
    first = groups[0]
    for group, K in zip(groups[1:], counts[1:], strict=True):
        if group["type"] != first["type"]:
            raise ValueError(f"all groups share one type; got {first['type']!r} and {group['type']!r}")
        if first["type"] != "switch":
            continue
        if counts[0] != K:
            raise ValueError(
                f"type='switch' makes one choice for all groups, but they list {counts[0]} and {K} candidates"
            )
        for key in SHARED_BY_SWITCH:
            if group[key] != first[key]:
                raise ValueError(
                    f"type='switch' makes one choice for all groups, so {key} must agree in them; "
                    f"got {first[key]} and {group[key]}"
                )


def check_candidates_kept(group: dict[str, Any], K: int, option: str) -> None:
    """Raise ValueError where ``group`` had another number of candidates than the ``K`` that ``option`` gives now."""
    if group["K"] != K:
        raise ValueError(
            f"{option}={group[option]!r} has {K} candidate{'s' * (K != 1)}, but the optimizer was built with "
            f"{group['K']}: something rewrote it. Schedulers that cycle momentum (OneCycleLR, CyclicLR) do: pass "
            "cycle_momentum=False"
        )
