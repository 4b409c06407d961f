"""The conversion of ``TrainingArguments.optim_args`` to optimizer options.

Trainer's own format is ``key=value,key=value``, split at every comma and ``=``. So candidates are joined by ``:`` and a
pair by ``/``: ``betas=0.8:0.99,type=switch`` or ``betas=0.8/0.999:0.99/0.9999``.
"""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, get_args

from ..optim import GapOptimizer

EXAMPLE = "betas=0.8:0.99 or, with their own beta2, betas=0.8/0.999:0.99/0.9999"
FOR_TRAINER = ("convert", "portable")
"""The keys that tell Trainer how to resume and how to save: ``resume.py``."""
OWNED_BY_TRAINER = {"lr": "learning_rate", "weight_decay": "weight_decay"}


def split(text: str | None) -> dict[str, str]:
    """Split the text as Trainer does, but say what is wrong with a part that is not ``key=value``.

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
                f"joined by ':' and a pair by '/'; for example {EXAMPLE}"
            )
        if key in options:
            raise ValueError(f"optim_args={text!r}: {key!r} is given twice")
        options[key] = value
    return options


def is_set(text: str | None, key: str) -> bool:
    """Whether ``optim_args`` set one of ``FOR_TRAINER``.

    Raises:
        ValueError: ``text`` can't be read.
    """
    try:
        return truth(split(text).get(key, "false"))
    except KeyError as error:
        raise ValueError(f"optim_args: {key}={error} can't be read; expected {key}=true or {key}=false") from None


def parse(optimizer: type[GapOptimizer], given: Mapping[str, str]) -> dict[str, Any]:
    """Turn the text of each option into what ``optimizer``'s constructor takes.

    A candidate list becomes a list of floats (``momentum``, and ``betas`` without beta2) or of pairs.

    Raises:
        ValueError: a key is unknown, or its value can't be read; the message shows a right example.
    """
    known = {name: option for name, option in optimizer.options.items() if name not in OWNED_BY_TRAINER}
    options = {}
    for key, text in given.items():
        if key in FOR_TRAINER:
            is_set(f"{key}={text}", key)
            continue
        if key in OWNED_BY_TRAINER:
            raise ValueError(f"optim_args: {key!r} is set by TrainingArguments.{OWNED_BY_TRAINER[key]}")
        if key not in known:
            keys = sorted([*known, *FOR_TRAINER])
            close = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            shown = example(optimizer, optimizer.family.candidate_option)
            raise ValueError(
                f"optim_args: unknown key {key!r} for {optimizer.__name__}; {hint}It takes {', '.join(keys)}; "
                f'for example optim_args="{shown}{",type=switch" if "J_ema" in known else ""}"'
            )
        option, parameter = known[key]
        try:
            options[key] = option.read(text) if option.read is not None else convert(text, parameter)
        except ValueError as error:
            shown = option.example or f"{key}={str(parameter.default).lower()}"
            raise ValueError(f"optim_args: {key}={text!r} can't be read; expected, for example, {shown}") from error
    return options


def example(optimizer: type[GapOptimizer], key: str) -> str:
    """Return the shortest correct way to write ``key``."""
    return optimizer.options[key].option.example.split(" or")[0]


def convert(text: str, parameter: inspect.Parameter) -> Any:
    """Read ``text`` as what the constructor's ``parameter`` is annotated with."""
    kinds = get_args(parameter.annotation) or (parameter.annotation,)
    if bool in kinds:
        try:
            return truth(text)
        except KeyError:
            raise ValueError(text) from None
    return text if str in kinds else int(text) if int in kinds else float(text)


def truth(text: str) -> bool:
    """Read a truth value. Raises KeyError."""
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
