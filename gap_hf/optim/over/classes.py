"""The names of optimizers, and the classes behind them."""

import difflib
import importlib
import inspect
from functools import cache
from typing import Any

import torch
from torch.optim import Optimizer

PACKAGE = "pytorch_optimizer"
"""A package with many optimizers."""

REGISTERED: dict[str, type[Optimizer]] = {}
"""Classes under names of the user's."""


def register(name: str, optimizer: type[Optimizer]) -> None:
    """Give an optimizer class a name for ``candidates``; needed only where it can't be imported by its path.

    Args:
        name: letters, digits and ``_``.
        optimizer: a subclass of ``torch.optim.Optimizer``.

    Raises:
        ValueError: the name is no identifier, or another class has it.
        TypeError: ``optimizer`` is not a class of optimizers.
    """
    if not name.isidentifier():
        raise ValueError(f"{name!r} can't name a candidate; expected letters, digits and '_', for example 'my_adam'")
    if not (inspect.isclass(optimizer) and issubclass(optimizer, Optimizer)):
        raise TypeError(f"{optimizer!r} is not a subclass of torch.optim.Optimizer")
    if REGISTERED.setdefault(name, optimizer) is not optimizer:
        raise ValueError(f"{name!r} is {REGISTERED[name]} already; choose another name")


def find(name: str) -> type[Optimizer]:
    """Return the class that a candidate's name stands for.

    That is one that was registered, or one of torch's (``adamw``) or of pytorch_optimizer's (``lion``) in any case, in
    this order; or, by its path, any other (``my_package.MyAdam``, ``gap_hf.Adai``).

    Raises:
        ValueError: there is none, or it is not a class of optimizers.
    """
    if name in REGISTERED:
        return REGISTERED[name]
    if "." in name:
        return by_path(name)
    if found := (of_package() | of_torch()).get(name.lower()):
        return found
    known = sorted({*REGISTERED, *of_torch(), *of_package()})
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    more = "" if of_package() else f"; more with the package {PACKAGE} (pip install pytorch_optimizer)"
    raise ValueError(
        f"there is no optimizer {name!r}; {hint}expected one of {', '.join(known)}{more}, or the path of a class, for "
        "example torch.optim.AdamW"
    )


def by_path(path: str) -> type[Optimizer]:
    """Import a class. Raises ValueError."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path!r} can't be imported: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Optimizer)):
        raise ValueError(f"{path!r} is not a subclass of torch.optim.Optimizer")
    return found


@cache
def of_torch() -> dict[str, type[Optimizer]]:
    """Return torch's own optimizers by their names in lower case."""
    return classes(torch.optim)


@cache
def of_package() -> dict[str, type[Optimizer]]:
    """Return pytorch_optimizer's, likewise; none if it is not installed."""
    try:
        package = importlib.import_module(PACKAGE)
    except ImportError:
        return {}
    return classes(package)


def classes(module: Any) -> dict[str, type[Optimizer]]:
    """Return a module's optimizer classes by their names in lower case."""
    return {
        name.lower(): found
        for name, found in vars(module).items()
        if inspect.isclass(found) and issubclass(found, Optimizer) and found is not Optimizer
    }
