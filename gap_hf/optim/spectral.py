"""Spectral decay as an option: for which parameters, and whether it will be stable."""

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..sharding.layout import Layout
from .arithmetic.power import is_matrix
from .family import Option
from .options import is_flag
from .shell import GapOptimizer

logger = logging.getLogger(__name__)


def spectral_of_text(text: str) -> bool | str:
    """Read ``use_spectral_decay`` from ``optim_args``: a flag or a pattern."""
    return {"true": True, "false": False}.get(text.lower(), text)


# fmt: off
SPECTRAL_DECAY = Option(
    "decay matrices by their largest singular value, not like the rest: all of them, those in whose names a regular "
    "expression is found, or those with a True in a list of flags, one for each parameter.",
    lambda x: is_flag(x) or isinstance(x, str) or (isinstance(x, list) and all(map(is_flag, x))),
    "True, False, a regular expression, or a list of True and False",
    example="use_spectral_decay=false or use_spectral_decay=lora_A|q_proj", read=spectral_of_text, resumed="run",
)
# fmt: on


class DecaysSpectrally(GapOptimizer):
    """An optimizer with the option ``use_spectral_decay``."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            group["use_spectral_decay"] = flags_of(group)
        except ValueError:
            self.param_groups.pop()
            raise

    def _take_step(self, layout: Layout) -> None:
        if not self.steps_taken:
            groups, shapes = self.param_groups, layout.shapes
            if len(groups) < len(shapes):  # DeepSpeed ZeRO 1 and 2 show one group at a time, and don't say which
                shapes = [list(chain(*shapes))] * len(groups)
            for group, of_group in zip(groups, shapes, strict=True):
                warn_of_divergence(group, of_group)
        super()._take_step(layout)


def flags_of(group: Mapping[str, Any]) -> bool | list[bool]:
    """Say for each of the group's parameters whether it may have spectral decay, or for all if that is the same.

    Raises:
        ValueError: a regular expression can't be read or has no names to search, or flags are missing or too many.
    """
    wanted, params = group["use_spectral_decay"], group["params"]
    if isinstance(wanted, str):
        if "param_names" not in group:
            raise ValueError(
                f"use_spectral_decay={wanted!r} searches the parameters' names: give the optimizer "
                "model.named_parameters()"
            )
        wanted = [found(wanted, name) for name in group["param_names"]]
    flags = [wanted] * len(params) if isinstance(wanted, bool) else wanted
    if len(flags) != len(params):
        raise ValueError(f"use_spectral_decay has {len(flags)} flags for {len(params)} parameters; give one for each")
    flags = [flag and getattr(p, "use_spectral_decay", True) for flag, p in zip(flags, params, strict=True)]
    return flags if len(set(flags)) > 1 else flags[0] if flags else wanted


def mark(pattern: str, named: Iterable[tuple[str, Tensor]]) -> None:
    """Let parameters in whose names ``pattern`` is found decay spectrally, and no others: by an attribute of theirs.

    Raises:
        ValueError: it is not a regular expression, or is found in no name.
    """
    wanted = [(p, found(pattern, name)) for name, p in named]
    if not any(flag for _, flag in wanted):
        raise ValueError(f"use_spectral_decay={pattern!r} is found in no parameter's name")
    for p, flag in wanted:
        p.use_spectral_decay = flag  # type: ignore[attr-defined]


def found(pattern: str, name: str) -> bool:
    """Whether the regular expression ``pattern`` finds something in ``name``. Raises ValueError if it can't be read."""
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise ValueError(f"use_spectral_decay={pattern!r} is not a regular expression: {error}") from error


def warn_of_divergence(group: Mapping[str, Any], shapes: Sequence[torch.Size]) -> None:
    """Warn if the decay takes more than twice a singular value of a matrix at once, so that it grows."""
    rate = float(group.get("initial_lr", group["lr"])) * group["weight_decay"]
    tallest = max((shape for shape in shapes if is_matrix(shape)), key=lambda shape: shape[-2], default=None)
    if tallest is None or group["use_spectral_decay"] is False or rate * math.sqrt(tallest[-2]) < 2:
        return
    logger.warning(
        "lr * weight_decay * sqrt(rows) is %.3g for a matrix of shape %s: from 2 on, its spectral decay makes it grow "
        "instead of smaller. Lower the learning rate or weight_decay: their product must be below %.3g",
        rate * math.sqrt(tallest[-2]), tuple(tallest), 2 / math.sqrt(tallest[-2]),
    )  # fmt: skip
