"""Who takes part in a sweep: the gap optimizer, the controls that test what its choosing does, and fixed values.

A control has the gap optimizer's candidates and resets, and differs in what is applied: ``random`` draws the
candidate, ``first`` always takes the first-listed one, and the constant mix has weights that no score changes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from ..optim.family import Scored
from ..trainer import optim_args
from ..trainer.presets import PRESETS, options_of
from .errors import SweepError

DRAWN = {"switch": "random", "switch_parameter_wise": "random_parameter_wise"}
"""The types that pick a candidate by its score, and those that draw it instead."""
MIXES = ("mix", "mix_parameter_wise")


class Role(Enum):
    """What a contender is there for."""

    PICK = "picks a candidate by scores"
    GAP = "a gap optimizer that does not pick: a mix, or a single candidate"
    RANDOM = "draws the candidate"
    FIRST = "takes the first-listed candidate"
    CONSTANT = "mixes with constant weights"
    SMALLEST = "the pick's smallest candidate, fixed"
    FIXED = "another fixed value"


@dataclass(frozen=True)
class Contender:
    """An optimizer that takes part, with every seed and every learning rate.

    Attributes:
        name: its name in tables and directories: ``gap_adamw``, ``random`` or ``beta1=0.9``.
        role: what it is there for.
        optim_args: its ``optim_args``; the ``optim`` name is the same for all.
        value: the beta1 or momentum of a fixed one.
    """

    name: str
    role: Role
    optim_args: str | None
    value: float | None = None

    @property
    def fixed(self) -> bool:
        """Whether it is a fixed value."""
        return self.role in (Role.SMALLEST, Role.FIXED)


def contenders(
    gap: str, gap_args: str | None = None, values: Sequence[float] | None = None, with_controls: bool = True
) -> list[Contender]:
    """List the contenders: the gap optimizer, its controls, and the fixed values in rising order.

    The smallest candidate is always among the fixed values: the pick may be nothing else.

    Args:
        gap: an ``optim`` name of this package.
        gap_args: the ``optim_args`` for that name.
        values: the fixed values of beta1 (or the momentum); by default a usual grid.
        with_controls: whether the controls take part.

    Raises:
        SweepError: there is no such optimizer, it has no candidates, or it refuses its options.
    """
    if gap not in PRESETS:
        raise SweepError(f"{gap!r} is not a gap optimizer; expected one of {', '.join(PRESETS)}")
    family = PRESETS[gap].optimizer.family
    if not isinstance(family, Scored) or not (values or family.grid):
        raise SweepError(f"{gap!r} has no candidates, and so nothing to sweep")
    group = accepted(gap, gap, gap_args)
    candidates = family.candidates(group)
    decays = family.decays(group)
    known = [(decay, one.value) for decay, one in zip(decays, candidates, strict=True) if one.value is not None]
    picks = group["type"] in DRAWN and len(candidates) > 1
    found = [Contender(gap, Role.PICK if picks else Role.GAP, gap_args)]
    if with_controls and len(candidates) > 1:
        for name, (role, changed) in controls(group["type"], group.get("weights"), decays).items():
            found.append(Contender(name, role, rewritten(gap_args, changed)))
    smallest = min(known)[1] if known else None  # the one with the shortest memory
    grid = [*(values or family.grid), *([] if smallest is None else [smallest])]
    fixed = {f"{family.candidate_name}={value:.12g}": value for value in grid}
    for name, value in sorted(fixed.items(), key=lambda one: one[1]):
        role = Role.SMALLEST if value == smallest else Role.FIXED
        found.append(Contender(name, role, f"type=default,{family.candidate_option}={value:.12g}", value))
    for contender in found[1:]:
        accepted(contender.name, gap, contender.optim_args)
    return found


def controls(type_: str, weights: Any, decays: Sequence[float]) -> dict[str, tuple[Role, dict[str, str]]]:
    """Return the controls that test a gap optimizer, by name: their role, and the options that they change.

    Args:
        type_: the gap optimizer's ``type``.
        weights: its ``weights``, if it has that option.
        decays: its candidates' decay rates.
    """
    if type_ in DRAWN:
        return {"random": (Role.RANDOM, {"type": DRAWN[type_]}), "first": (Role.FIRST, {"type": "first"})}
    if type_ in MIXES and weights == "score":
        constant = {"type": "mix", "weights": ":".join(f"{weight:.12g}" for weight in constant_weights(decays))}
        return {"constant_mix": (Role.CONSTANT, constant)}
    return {}


def constant_weights(decays: Sequence[float]) -> list[float]:
    """Return weights proportional to sqrt(1 - decay^2), which add up to 1: as by scores of uncorrelated gradients."""
    norms = [math.sqrt(1 - decay**2) for decay in decays]
    return [norm / sum(norms) for norm in norms]


def rewritten(text: str | None, changed: Mapping[str, str]) -> str:
    """Return ``optim_args`` with other values for some options."""
    return ",".join(f"{key}={value}" for key, value in {**optim_args.split(text), **changed}.items())


def accepted(name: str, gap: str, text: str | None) -> Mapping[str, Any]:
    """Return the options that an optimizer has; SweepError if it refuses them: now, and not after others have trained.

    Args:
        name: the contender's name, for the message.
        gap: the ``optim`` name.
        text: the ``optim_args``.
    """
    try:
        return PRESETS[gap].optimizer([torch.zeros(1)], **options_of(gap, text)).param_groups[0]
    except (ValueError, ImportError) as error:
        raise SweepError(f"{name}: {error}") from error
