"""What a step costs: the GAP optimizers beside torch's AdamW and others, measured in one process (``gap-hf bench``)."""

from .errors import BenchError
from .result import Result, Row
from .runner import Options, run

__all__ = ["BenchError", "Options", "Result", "Row", "run"]
