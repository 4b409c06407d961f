"""The recipes' directory is importable, as under ``make evidence``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "recipes"))
