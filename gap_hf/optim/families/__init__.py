"""The families: each module here but ``common`` and ``moments`` is one, with its arithmetic and the optimizer classes
that users build.

A module that is added here is found by itself: there is no list of families.
"""

import importlib
import pkgutil

from ..shell import GapOptimizer

OPTIMIZERS: dict[str, type[GapOptimizer]] = {}
"""All optimizer classes, by name."""

for module in pkgutil.iter_modules(__path__):
    found = importlib.import_module(f"{__name__}.{module.name}")
    OPTIMIZERS |= {
        name: value
        for name, value in vars(found).items()
        if isinstance(value, type) and issubclass(value, GapOptimizer) and value.__module__ == found.__name__
    }

FAMILIES = list({id(optimizer.family): optimizer.family for optimizer in OPTIMIZERS.values()}.values())
"""The families of these classes, each of them once."""
