"""``gap-hf sweep``: a grid of fixed beta1 (or momentum) values beside GAP, which claims to make the grid unnecessary.

Every run uses the same training script with the same flags; only the optimizer differs. A fixed value runs with
``type=default``, which is torch's own optimizer, bit for bit.
"""

from .errors import SweepError
from .members import Member, plan
from .runner import run
from .summary import table

__all__ = ["Member", "SweepError", "plan", "run", "table"]
