"""The recipes' directory is importable, as under ``make evidence``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
