"""mkdocstrings reads docstrings from the source; this fills in the options, as the classes do when they are made."""

import inspect
from typing import Any

import griffe


class Options(griffe.Extension):
    """Takes the docstrings of optimizer classes from the living classes."""

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """Replace the docstring of a class that says where its options go."""
        if cls.docstring is not None and "{options}" in cls.docstring.value:
            cls.docstring.value = inspect.getdoc(griffe.dynamic_import(cls.path)) or ""
