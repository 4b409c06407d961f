"""Plugins for other frameworks, a module for each: the framework loads its own, or it is loaded when that is imported.

Besides, ``gap-hf autoload``, which needs no plugin.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

REGISTRIES = {"llamafactory.v1.plugins.trainer_plugins.optimizer": "llamafactory"}
"""The module of each registry, and the module here that adds the names to it."""


class Watch(MetaPathFinder):
    """Lets the import of a registry be followed by the import of its plugin; it finds nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in REGISTRIES or (spec := PathFinder.find_spec(fullname, path, target)) is None:
            return None
        if spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                importlib.import_module(f"{__name__}.{REGISTRIES[fullname]}")

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def watch() -> None:
    """Register with the registries that are imported already, and with the others when they are imported."""
    if not any(isinstance(finder, Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, Watch())
    for registry, plugin in REGISTRIES.items():
        if registry in sys.modules:
            importlib.import_module(f"{__name__}.{plugin}")
