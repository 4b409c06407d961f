"""Count Python functions, as times depend on the machine."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gap_hf

PACKAGE = str(Path(gap_hf.__file__).parent)


def python_calls(function: Callable[[], Any]) -> int:
    """Count the functions of gap_hf that run in a call of ``function``; of a generator, each item counts."""
    calls = 0

    def count(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls
