"""``TrainingArguments.optim_args`` to optimizer options.

Trainer's own format is ``key=value,key=value``, split at every comma and ``=``; so candidates are joined by ``:`` and a
pair by ``/``: ``betas=0.8:0.99,type=switch`` or ``betas=0.8/0.999:0.99/0.9999``.
"""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, get_args

from ..optim import GapOptimizer

EXAMPLES = {
    "betas": "betas=0.8:0.99 or, with their own beta2, betas=0.8/0.999:0.99/0.9999",
    "momentum": "momentum=0.5:0.9:0.99",
    "type": "type=switch, type=switch_parameter_wise or type=default",
    "foreach": "foreach=true",
    "fused": "fused=true",
    "state_dtype": "state_dtype=bfloat16, float32 or 8bit",
    "second_order_momentum_reset_mode": "second_order_momentum_reset_mode=none, same or square",
}
OWNED_BY_TRAINER = {"lr": "learning_rate", "weight_decay": "weight_decay"}
CANDIDATES = ("betas", "momentum")


def split(text: str | None) -> dict[str, str]:
    """Split as Trainer does, but say what is wrong with a part that is not ``key=value``.

    Raises:
        ValueError: a part has no ``=``, or a key comes twice.
    """
    options: dict[str, str] = {}
    for part in (text or "").replace(" ", "").split(","):
        if not part:
            continue
        key, equals, value = part.partition("=")
        if not equals or not key or not value or "=" in value:
            raise ValueError(
                f"optim_args={text!r}: {part!r} is not key=value. Options are separated by commas, so candidates are "
                f"joined by ':' and a pair by '/'; for example {EXAMPLES['betas']}"
            )
        if key in options:
            raise ValueError(f"optim_args={text!r}: {key!r} is given twice")
        options[key] = value
    return options


def parse(optimizer: type[GapOptimizer], given: Mapping[str, str]) -> dict[str, Any]:
    """Turn the text of each option into what ``optimizer``'s constructor takes.

    A candidate list becomes a list of floats (``momentum``, and ``betas`` without beta2) or of pairs.

    Raises:
        ValueError: a key is unknown, or its value can't be read; the message shows a right example.
    """
    known = {
        name: parameter
        for name, parameter in inspect.signature(optimizer).parameters.items()
        if name not in ("params", *OWNED_BY_TRAINER)
    }
    options = {}
    for key, text in given.items():
        if key in OWNED_BY_TRAINER:
            raise ValueError(f"optim_args: {key!r} is set by TrainingArguments.{OWNED_BY_TRAINER[key]}")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"optim_args: unknown key {key!r} for {optimizer.__name__}; {hint}It takes {', '.join(sorted(known))}; "
                f'for example optim_args="{example("betas" if "betas" in known else "momentum")},type=switch"'
            )
        try:
            options[key] = candidates(text) if key in CANDIDATES else convert(text, known[key])
        except ValueError as error:
            shown = EXAMPLES.get(key, f"{key}={str(known[key].default).lower()}")
            raise ValueError(f"optim_args: {key}={text!r} can't be read; expected for example {shown}") from error
    return options


def example(key: str) -> str:
    """The shortest right way to write ``key``."""
    return EXAMPLES[key].split(" or")[0]


def candidates(text: str) -> list[Any]:
    """``'0.8:0.99'`` to ``[0.8, 0.99]``, ``'0.8/0.9:0.99/0.999'`` to ``[(0.8, 0.9), (0.99, 0.999)]``."""
    values: list[Any] = []
    for part in text.split(":"):
        numbers = [float(number) for number in part.split("/")]
        if len(numbers) > 2:
            raise ValueError(part)
        values.append(tuple(numbers) if len(numbers) == 2 else numbers[0])
    return values


def convert(text: str, parameter: inspect.Parameter) -> Any:
    """Read ``text`` as what the constructor's ``parameter`` is annotated with."""
    kinds = get_args(parameter.annotation) or (parameter.annotation,)
    if bool in kinds:
        try:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        except KeyError:
            raise ValueError(text) from None
    return text if str in kinds else int(text) if int in kinds else float(text)
