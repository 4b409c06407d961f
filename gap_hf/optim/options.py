"""The options that all families have, and how options are checked."""

import inspect
import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .family import Family, Option, Scored
from .rules import TYPES
from .rules.mix import BY_SCORE, WEIGHTS, are_weights

logger = logging.getLogger(__name__)

LR_MODULATIONS = (False, True, "power", "dc")
STATE_DTYPES = (None, "float32", "bfloat16", "8bit")


# ---------------------------------------------------------------- values
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
    """Whether ``value`` is a whole number >= 0 that 64 bits can hold, of a type that has only whole numbers."""
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) < 2**63


def is_flag(value: Any) -> bool:
    """Whether ``value`` is True or False."""
    return isinstance(value, bool)


def is_flag_or_none(value: Any) -> bool:
    """Whether ``value`` is True, False or None."""
    return value is None or isinstance(value, bool)


def is_learning_rate(lr: Any) -> bool:
    """Whether ``lr`` is a number >= 0, or an ordinary tensor that holds one number."""
    if not isinstance(lr, Tensor):
        return is_number(lr) and lr >= 0
    plain = lr.is_floating_point() and lr.layout == torch.strided and not lr.is_meta and not lr.is_nested
    return plain and lr.numel() == 1 and float(lr) >= 0


def weights_of_text(text: str) -> Any:
    """Read ``'0.3:0.7'`` from ``optim_args`` as ``[0.3, 0.7]``, and ``'score'`` as it is. Raises ValueError."""
    return text if text == BY_SCORE else [float(number) for number in text.split(":")]


def modulation_of_text(text: str) -> Any:
    """Read ``lr_modulation`` from ``optim_args``. Raises ValueError."""
    flags = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in (*flags, "power", "dc"):
        raise ValueError(text)
    return flags.get(text.lower(), text.lower())


def number(lr: float | Tensor) -> Any:
    """Return a learning rate as kernels take it: a tensor stays a tensor, and any other number becomes a float."""
    return lr if isinstance(lr, Tensor) else float(lr)


def check_option(name: str, value: Any, good: bool, expected: str) -> None:
    """Raise a ValueError that names the option, its value and what was expected, unless ``good``."""
    if not good:
        raise ValueError(f"{name}={value!r} is out of range; expected {expected}")


# ---------------------------------------------------------------- the options of all families
OPTIONS: dict[str, Option] = {
    "lr": Option("learning rate.", is_learning_rate, "a number >= 0, or a tensor of one"),
    "weight_decay": Option("decay coefficient.", lambda x: is_number(x) and x >= 0, "a number >= 0"),
    "type": Option(
        "``'default'`` (one candidate, no choice), ``'switch'`` (one choice for the whole model), "
        "``'switch_parameter_wise'`` (one per parameter), ``'mix'`` (all candidates at once, with weights), "
        "``'mix_parameter_wise'`` (with weights for each parameter), or as a control ``'first'``, ``'random'`` or "
        "``'random_parameter_wise'``.",
        example="type=switch, type=switch_parameter_wise, type=mix or type=default",
    ),
    "weights": Option(
        "of a mix: one number for each candidate, which stay as they are, or ``'score'``, which makes them follow the "
        "scores at each step. None weighs each candidate by sqrt(1 - decay^2), decay being its beta1 or momentum, and "
        "whole optimizers alike.",
        lambda x: x is None or are_weights(x) or (isinstance(x, str) and x == BY_SCORE),
        WEIGHTS,
        example="weights=0.3:0.7 or weights=score", read=weights_of_text, resumed="run, same type", shared=True,
    ),
    "lr_modulation": Option(
        "scale each candidate's step: ``'power'`` (or True) to the power of the first-listed one's, ``'dc'`` to the "
        "same gain for a constant gradient (for SGDM, that of momentum 0.9), as a mix always does.",
        lambda x: (is_flag(x) or isinstance(x, str)) and x in LR_MODULATIONS, "False, 'power', 'dc' or True",
        example="lr_modulation=power or lr_modulation=dc", read=modulation_of_text, resumed="run, same type",
    ),
    "seed": Option(
        "of the draws of the controls ``'random'`` and ``'random_parameter_wise'``.", is_count,
        "a whole number >= 0", resumed="run, same type", shared=True,
    ),
    "soft_reset": Option(
        "factor on the first moments after ``hysteresis_threshold`` steps in a row against the gradient.",
        lambda x: is_number(x) and 0 <= x <= 1, "a number in [0, 1]", resumed="run, same type",
    ),
    "hysteresis_threshold": Option(
        "that number of steps.",
        lambda x: is_count(x) and x >= 1, "a whole number of steps >= 1", resumed="run, same type", shared=True,
    ),
    "J_ema": Option(
        "in [0, 1), moving average of the scores (``'switch'`` only).",
        lambda x: is_number(x) and 0 <= x < 1, "a number in [0, 1)", resumed="run, same type", shared=True,
    ),
    "foreach": Option(
        "use torch's multi-tensor operations (``docs/speed.md``); None leaves it open.",
        is_flag_or_none, "True or False", example="foreach=true", resumed="run",
    ),
    "fused": Option(
        "use the fused kernel; None takes it where there is one.",
        is_flag_or_none, "True or False", example="fused=true", resumed="run",
    ),
    "capturable": Option("let CUDA graphs capture the step.", is_flag, "True or False", resumed="run"),
    "state_dtype": Option(
        "of the buffers, ``'float32'``, ``'bfloat16'`` or ``'8bit'``; None takes the parameter's.",
        lambda x: x in STATE_DTYPES, f"one of {', '.join(map(repr, STATE_DTYPES))}",
        example="state_dtype=bfloat16, float32 or 8bit", resumed="run, same type",
    ),
    "maximize": Option("step along the gradient instead of against it.", is_flag, "True or False"),
    "differentiable": Option("must be False; in the list because ``torch.optim`` has it."),
}  # fmt: skip


class Declared(NamedTuple):
    """An option, together with the constructor's parameter for it.

    Attributes:
        option: the option.
        parameter: the constructor's parameter: name, annotation and default.
    """

    option: Option
    parameter: inspect.Parameter


def declared(constructor: Callable[..., Any], family: Family) -> dict[str, Declared]:
    """Return the options of an optimizer class by name, in its constructor's order.

    Raises:
        TypeError: the constructor has an option without a description, or lacks one of the family's options.
    """
    known = {**OPTIONS, **family.options}
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(constructor).parameters.items()
        if name not in ("self", "params")
    }
    if strange := [name for name in parameters if name not in known]:
        raise TypeError(f"the {family.name} family does not describe the options {', '.join(strange)}")
    if missing := [name for name in family.options if name not in parameters]:
        raise TypeError(f"the constructor lacks the {family.name} family's options {', '.join(missing)}")
    if missing := [name for name in ("lr", "type", "foreach", "fused") if name not in parameters]:
        raise TypeError(f"the constructor lacks the options {', '.join(missing)}, which every optimizer has")
    return {name: Declared(known[name], parameter) for name, parameter in parameters.items()}


def described(options: Mapping[str, Declared]) -> str:
    """Describe the options as lines of a docstring's ``Args``."""
    wrapper = textwrap.TextWrapper(
        120, initial_indent=" " * 8, subsequent_indent=" " * 12, break_long_words=False, break_on_hyphens=False
    )
    paragraphs = [wrapper.fill(f"{name}: {option.text}") for name, (option, _) in options.items()]
    return "\n".join(paragraphs).strip()


def given(local_variables: Mapping[str, Any]) -> dict[str, Any]:
    """Pick a constructor's options from its ``locals()``."""
    return {name: value for name, value in local_variables.items() if name not in ("self", "params", "__class__")}


# ---------------------------------------------------------------- checks
def validate(family: Family, options: Mapping[str, Declared], group: Mapping[str, Any]) -> None:
    """Check all options of ``group``.

    Raises:
        ValueError: an option is of a wrong type, out of range, or contradicts another.
    """
    K = len(family.parse(group))
    if not isinstance(group["type"], str) or group["type"] not in TYPES:
        raise ValueError(f"type={group['type']!r} is unknown; expected one of {', '.join(map(repr, TYPES))}")
    if group["type"] != "default" and not isinstance(family, Scored):
        raise ValueError(f"type={group['type']!r}: {family.name} does not choose, and takes type='default' only")
    rule, per_parameter = TYPES[group["type"]]
    for name, (option, _) in options.items():
        if option.good is not None:
            check_option(name, group[name], option.good(group[name]), option.expected)
    if group.get("differentiable"):
        raise ValueError(
            "differentiable=True is not supported: the step works in place, on plain memory, and no gradient flows "
            "through it. Leave it out, or use torch.optim's own classes for that"
        )
    if per_parameter and group.get("J_ema"):
        raise ValueError(
            f"J_ema={group['J_ema']} averages the global score, which type={group['type']!r} does not have; "
            f"set J_ema=0 or type={group['type'].removesuffix('_parameter_wise')!r}"
        )
    if group.get("weights") is not None and not (rule and rule.mixes):
        raise ValueError(
            f"weights={group['weights']!r} is for the types that mix the candidates; set type='mix' or "
            "type='mix_parameter_wise', or leave weights out"
        )
    if group["foreach"] and group["fused"]:
        raise ValueError("foreach=True and fused=True exclude each other; give one of them, or neither")
    check_state_dtype(family, group)
    if group["type"] == "default" and K > 1:
        raise ValueError(
            f"type='default' takes one candidate, got {K}: give a single one, or set type='switch' "
            "or type='switch_parameter_wise' to choose among them, or type='mix' to mix them"
        )
    if rule is not None:
        rule.check(group, K)
    family.check(group)


def check_state_dtype(family: Family, group: Mapping[str, Any]) -> None:
    """Check that the other options go with ``state_dtype``. Raises ValueError."""
    state_dtype = group.get("state_dtype")
    if state_dtype == "8bit" and group["type"] != "default":
        compact = [buffer for buffer in family.buffers(group) if buffer.compact]
        if any(buffer.relative is None for buffer in compact):
            raise ValueError(f"state_dtype='8bit' {family.not_in_eight_bits(group)}; use state_dtype='bfloat16'")
    if state_dtype and group["type"] == "default":
        raise ValueError(
            f"state_dtype={state_dtype!r} is not for type='default', which is torch.optim's own step and keeps its "
            "state in the parameter's dtype"
        )


def validate_together(
    options: Mapping[str, Declared], groups: Sequence[Mapping[str, Any]], counts: Sequence[int]
) -> None:
    """Check that ``groups``, with ``counts`` candidates each, agree where they must. Raises ValueError."""
    first = groups[0]
    for group, K in zip(groups[1:], counts[1:], strict=True):
        if group["type"] != first["type"]:
            raise ValueError(f"all groups share one type; got {first['type']!r} and {group['type']!r}")
        rule, per_parameter = TYPES[first["type"]]
        if rule is None or per_parameter:
            continue
        if counts[0] != K:
            raise ValueError(
                f"type={first['type']!r} makes one choice for all groups, but they list {counts[0]} and {K} candidates"
            )
        for name, (option, _) in options.items():
            if option.shared and group[name] != first[name]:
                raise ValueError(
                    f"type={first['type']!r} makes one choice for all groups, so {name} must agree in them; "
                    f"got {first[name]} and {group[name]}"
                )


def warn_of_idle_options(name: str, family: Family, groups: Sequence[Mapping[str, Any]]) -> None:
    """Warn if the optimizer ``name`` has a type that decides something, and there is nothing to decide."""
    first = groups[0]
    rule, per_parameter = TYPES[first["type"]]
    if rule is None:
        return
    if all(group["K"] == 1 for group in groups):
        logger.warning(
            "%s has type=%r, but %s=%r is a single candidate: there is nothing to choose. Give a list of them, or "
            "type='default'",
            name, first["type"], family.candidate_option, first[family.candidate_option],
        )  # fmt: skip
    elif rule.mixes and per_parameter and all(group["weights"] != BY_SCORE for group in groups):
        logger.warning(
            "%s has type=%r with constant weights, which are the same for every parameter: type='mix' does that, too. "
            "For weights of each parameter's own, give weights='score'",
            name, first["type"],
        )  # fmt: skip


def check_candidates_kept(group: Mapping[str, Any], K: int, option: str) -> None:
    """Raise ValueError if ``group`` had another number of candidates than the ``K`` that ``option`` gives now."""
    if group["K"] != K:
        raise ValueError(
            f"{option}={group[option]!r} has {K} candidate{'s' * (K != 1)}, but the optimizer was built with "
            f"{group['K']}: something rewrote it. Schedulers that cycle momentum (OneCycleLR, CyclicLR) do: pass "
            "cycle_momentum=False"
        )
