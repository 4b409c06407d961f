"""Another version of gap_hf, to be measured in the same process as this one."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ..optim import shell
from .errors import BenchError

NAME = "gap_hf_before"


def optimizer(checkout: Path) -> Any:
    """Return the class GapAdamW of the version of gap_hf in ``checkout``, a directory with the package in it.

    Raises:
        BenchError: there is none, or it can't be imported.
    """
    package = checkout.resolve() / "gap_hf"
    if not (package / "optim" / "__init__.py").is_file():
        raise BenchError(f"--before {checkout}: there is no gap_hf/optim in it; expected a checkout of another version")
    if NAME not in sys.modules:
        module = ModuleType(NAME)  # without its __init__.py, which would register names that are registered
        module.__path__ = [str(package)]
        module.__version__ = "before"  # type: ignore[attr-defined]
        sys.modules[NAME] = module
    try:
        theirs = importlib.import_module(f"{NAME}.optim.shell")
        for version in (shell, theirs):  # each would take the other's for an optimizer that took over its groups
            vars(version)["refuse_takeovers"] = lambda ours: None
        return importlib.import_module(f"{NAME}.optim").GapAdamW
    except Exception as error:
        raise BenchError(f"--before {checkout}: it can't be imported ({type(error).__name__}: {error})") from error
