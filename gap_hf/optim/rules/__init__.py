"""The rules: each module here but ``rule`` is one. A module that is added here is found by itself."""

import importlib
import inspect
import pkgutil
from typing import NamedTuple

from .rule import Rule


class Type(NamedTuple):
    """The meaning of a value of the option ``type``.

    Attributes:
        rule: the rule that decides; None where there is one candidate and nothing to decide.
        per_parameter: whether each parameter has its own choice.
    """

    rule: type[Rule] | None
    per_parameter: bool


TYPES: dict[str, Type] = {"default": Type(None, False)}
"""The values of the option ``type``."""

for module in pkgutil.iter_modules(__path__):
    for found in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
        if isinstance(found, type) and issubclass(found, Rule) and not inspect.isabstract(found):
            TYPES |= {name: Type(found, per_parameter) for name, per_parameter in found.types.items()}
