"""GAP optimizers for Hugging Face Trainer and Accelerate.

Importing this package adds ``gap_adamw``, ``gap_adam``, ``gap_sgdm`` and the presets to Trainer's ``optim`` names and
``GapCallback`` to its default callbacks (it acts only where a gap optimizer is in use).
"""

import sys
from pathlib import PurePath
from typing import Any

__version__ = "0.2.0"
__all__ = [
    "SGDM",
    "Adam",
    "GapAdamW",
    "GapCallback",
    "Recorder",
    "consolidated_state_dict",
    "convert_state_dict",
    "load_consolidated_state_dict",
    "load_portable",
    "recommended",
    "register",
    "register_candidate",
    "save_portable",
    "torch_state_dict",
]

# The command gap-hf trains nothing in its own process, so it goes without torch and transformers, which take seconds to
# import: each subcommand imports what it needs.
if PurePath(*sys.argv[:1]).name not in ("gap-hf", "gap-hf.exe"):
    from .choices.recorder import Recorder
    from .consolidated import (
        consolidated_state_dict,
        convert_state_dict,
        load_consolidated_state_dict,
        torch_state_dict,
    )
    from .integrations import watch
    from .optim import SGDM, Adam, GapAdamW
    from .optim.over.classes import register as register_candidate
    from .portable import load_portable, save_portable
    from .trainer.callback import GapCallback
    from .trainer.presets import recommended
    from .trainer.registry import register

    register()
    watch()


def __getattr__(name: str) -> Any:
    """Return the optimizer class of a family that is not listed above (``gap_hf.optim.families`` finds them all)."""
    if not name.startswith("_"):
        from .optim.families import OPTIMIZERS

        if name in OPTIMIZERS:
            return OPTIMIZERS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
