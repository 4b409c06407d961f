"""The doctor's verdict on an ``optim=`` name and its ``optim_args``: what the optimizer gets, or what is wrong."""

import torch

from ..optim.over.spec import EXAMPLE
from ..trainer.presets import PRESETS, options_of
from . import candidates
from .finding import Finding, State


def judge(name: str, text: str | None, cut: bool = False) -> list[Finding]:
    """List every option of the optimizer with its value, or say why it will be refused.

    Args:
        name: an ``optim=`` name of gap_hf.
        text: the ``optim_args``.
        cut: whether the run will be launched with parameters in pieces.
    """
    if name not in PRESETS:
        return [Finding("optim", State.BAD, f"{name!r} is no gap optimizer; expected one of {', '.join(PRESETS)}")]
    optimizer = PRESETS[name].optimizer
    if name == "gap_over" and text is None:
        return [Finding("optim_args", State.NOTE, f"gap_over needs candidates, for example {EXAMPLE}")]
    try:
        built = optimizer([torch.zeros(1)], **options_of(name, text))
    except (ValueError, ImportError) as error:
        return [Finding("optim_args", State.BAD, str(error))]
    group = built.param_groups[0]
    found = [Finding("optim", State.GOOD, f"{name}: {optimizer.__name__}")]
    for key, (option, _) in optimizer.options.items():
        if key not in ("lr", "weight_decay", "differentiable"):  # Trainer's own, and what must be False
            found.append(Finding(f"{key}={group[key]}", State.GOOD, option.text.replace("``", "")))
    if "candidates" in group:
        found += candidates.of_group(group, cut)
    return found
