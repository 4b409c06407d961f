"""The second generation of LLaMA-Factory 0.9.5 (``USE_V1=1``), in the same environment."""

from pathlib import Path

from . import llamafactory
from .llamafactory import INSTALL, VERSION

__all__ = ["ENVIRONMENT_OF", "INSTALL", "REFUSED", "VERSION", "command"]

ENVIRONMENT_OF = "llamafactory"
REFUSED: dict[str, str] = {}


def command(material: Path, output: Path, layout: str) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment of a layout."""
    return llamafactory.command(material, output, f"v1_{layout}")
