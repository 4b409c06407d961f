"""How candidates are written: ``adamw:lion/lr_scale/0.1:adabelief``, a list, or a file."""

import ast
import inspect
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch.optim import Optimizer

from . import classes

EXAMPLE = "candidates=adamw:lion/lr_scale/0.1:adabelief/betas/0.9|0.99"
OWNED = {"lr": "lr_scale", "params": None, "maximize": None}
"""Options that are not a candidate's to set, and what to use instead."""


class Spec(NamedTuple):
    """One candidate: an optimizer and its options.

    Attributes:
        name: the optimizer's name.
        options: pairs of an option's name and its value, in order.
        lr_scale: the factor on the learning rate.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    lr_scale: float = 1.0

    @property
    def text(self) -> str:
        """The candidate as it is written in ``optim_args``."""
        scale = [] if self.lr_scale == 1 else ["lr_scale", repr(self.lr_scale)]
        return "/".join([self.name, *scale, *(part for name, value in self.options for part in (name, written(value)))])

    @property
    def optimizer(self) -> type[Optimizer]:
        """The class. Raises ValueError."""
        return classes.find(self.name)


def read(given: Any) -> tuple[Spec, ...]:
    """Read candidates: a text, the path of a YAML or JSON file, or a list with a text or a mapping for each.

    A mapping has ``name`` and the options; ``lr_scale`` is among them. A class may stand for its name.

    Raises:
        ValueError: something can't be read, or there is no such optimizer or option.
    """
    if isinstance(given, str):
        return of_file(given) if given.endswith((".yaml", ".yml", ".json")) else of_text(given)
    if isinstance(given, (Mapping, type)):
        given = [given]
    if not isinstance(given, Sequence) or not given:
        raise ValueError(f"candidates={given!r} can't be read; expected a list or a text, for example {EXAMPLE}")
    return tuple(spec for entry in given for spec in (of_text(entry) if isinstance(entry, str) else [of_entry(entry)]))


def of_file(path: str) -> tuple[Spec, ...]:
    """Read a file that holds a list. Raises ValueError."""
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        found = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"candidates={path!r}: the file can't be read: {error}") from error
    if not isinstance(found, list):
        raise ValueError(
            f"candidates={path!r}: expected a list of optimizers, each a name or a mapping with a name, for example "
            '[{"name": "adamw"}, {"name": "lion", "lr_scale": 0.1}]'
        )
    return read(found)


@cache
def of_text(text: str) -> tuple[Spec, ...]:
    """Read what ``optim_args`` can hold: ``:`` between candidates, ``/`` within one, ``|`` in a list."""
    found = []
    for entry in text.split(":"):
        name, *rest = entry.split("/")
        if not name or len(rest) % 2:
            raise ValueError(
                f"candidates={text!r}: {entry!r} is not a name with pairs of option and value; for example {EXAMPLE}"
            )
        options = dict(zip(rest[::2], map(value_of, rest[1::2]), strict=True))
        if len(options) < len(rest) // 2:
            raise ValueError(f"candidates={text!r}: {entry!r} sets an option twice")
        found.append(spec_of(name, options))
    return tuple(found)


def of_entry(entry: Any) -> Spec:
    """Read an entry of a list: a mapping, or a class."""
    if isinstance(entry, type):
        entry = {"name": entry}
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise ValueError(
            f"candidate {entry!r} can't be read; expected a mapping with a name, for example "
            '{"name": "lion", "lr_scale": 0.1}'
        )
    options = dict(entry)
    name = options.pop("name")
    return spec_of(path_of(name) if isinstance(name, type) else str(name), options)


def path_of(optimizer: type) -> str:
    """Return the name by which a class is found again. Raises ValueError."""
    path = f"{optimizer.__module__}.{optimizer.__qualname__}"
    names = [name for name, known in classes.REGISTERED.items() if known is optimizer]
    if names:
        return names[0]
    try:
        if classes.by_path(path) is optimizer:
            return path
    except ValueError:
        pass
    raise ValueError(
        f"{path} can't be imported from there, so that a checkpoint could not name it: register it, "
        f"gap_hf.register_candidate({optimizer.__name__.lower()!r}, {optimizer.__name__})"
    )


def spec_of(name: str, options: dict[str, Any]) -> Spec:
    """Check a candidate's options. Raises ValueError."""
    optimizer = classes.find(name)
    for option, instead in OWNED.items():
        if option in options:
            hint = f"use {instead} (a factor on the learning rate)" if instead else "leave it out"
            raise ValueError(f"candidate {name!r}: {option} is not a candidate's own; {hint}")
    scale = options.pop("lr_scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
        raise ValueError(f"candidate {name!r}: lr_scale={scale!r} is out of range; expected a number > 0")
    parameters = inspect.signature(optimizer).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for option in options:
        if option not in parameters and not anything:
            known = [found for found in parameters if found not in OWNED]
            raise ValueError(f"candidate {name!r} has no option {option!r}; it takes lr_scale, {', '.join(known)}")
    frozen = {option: tuple(value) if isinstance(value, list) else value for option, value in options.items()}
    for option, value in frozen.items():
        if not can_be_written(value):
            raise ValueError(
                f"candidate {name!r}: {option}={value!r} can't be written in a checkpoint; expected a number, a truth "
                "value, None, a word, or a list of these"
            )
    return Spec(name, tuple(frozen.items()), float(scale))


def can_be_written(value: Any) -> bool:
    """Whether ``value_of`` reads the same from what ``written`` makes of a value."""
    if isinstance(value, tuple):
        return len(value) > 1 and not any(isinstance(item, tuple) for item in value) and all(map(can_be_written, value))
    if isinstance(value, str) and set(value) & set(":/|"):
        return False
    return (value is None or isinstance(value, (bool, int, float, str))) and value_of(written(value)) == value


def value_of(text: str) -> Any:
    """Read a value: a number, a truth value, ``none``, a list joined by ``|``, or else a word."""
    if "|" in text:
        return tuple(map(value_of, text.split("|")))
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        number = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return number if isinstance(number, (int, float)) else text


def written(value: Any) -> str:
    """Write what ``value_of`` reads."""
    return "|".join(map(written, value)) if isinstance(value, tuple) else str(value)
