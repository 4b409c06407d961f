"""What Trainer's model cards say about a gap optimizer.

transformers describes every optimizer with "adam" in its name by ``adam_beta1`` and ``adam_beta2``, but a gap optimizer
does not use the first. So its function is wrapped, and what it says about a gap optimizer is replaced.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..optim import GapOptimizer
from ..optim.find import find_gap_optimizer
from .presets import PRESETS, options_of
from .wrapping import wrap

OF_THE_MACHINE = ("foreach", "fused", "capturable")
"""Options that don't change what is computed."""


def describe_in_model_cards() -> None:
    """Have model cards name gap optimizers with their own options; a second call changes nothing."""
    from transformers import modelcard

    wrap(modelcard, "extract_hyperparameters_from_trainer", with_ours)


def with_ours(original: Callable[[Any], dict[str, Any]], trainer: Any) -> dict[str, Any]:
    """Replace what the card says about the optimizer if it is ours."""
    found = original(trainer)
    if text := optimizer_of(trainer):
        found["optimizer"] = text
    return found


def optimizer_of(trainer: Any) -> str | None:
    """Return the card's line about the trainer's optimizer; None if that is not a gap optimizer."""
    name = getattr(trainer.args.optim, "value", trainer.args.optim)
    optimizer = find_gap_optimizer(trainer.optimizer)
    if optimizer is not None:
        return describe(name if name in PRESETS else None, type(optimizer), optimizer.param_groups[0])
    if name in PRESETS:  # the card is written before the training
        args = trainer.args
        options = options_of(name, args.optim_args, args.adam_beta1, args.adam_beta2, args.adam_epsilon)
        return describe(name, PRESETS[name].optimizer, options)
    return None


def describe(name: str | None, optimizer: type[GapOptimizer], options: Mapping[str, Any]) -> str:
    """Describe the optimizer in one line: its candidates, its type, and each other option not at its default.

    Learning rate and weight decay are left out: cards name the first anyway, and the second for no optimizer.
    """
    from .. import __version__

    parameters = inspect.signature(optimizer).parameters
    always = [optimizer.family.candidate_option, "type"]
    others = [
        key
        for key, parameter in parameters.items()
        if key not in (*always, "params", "lr", "weight_decay", *OF_THE_MACHINE)
        and options.get(key, parameter.default) != parameter.default
    ]
    told = ", ".join(f"{key}={options[key]}" for key in [*always, *others])
    of = f"{optimizer.__name__} of gap_hf {__version__}"
    return f"Use {f'{name} ({of})' if name else of} with {told}"
