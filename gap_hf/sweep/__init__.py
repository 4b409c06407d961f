"""``gap-hf sweep``: GAP beside a grid of fixed beta1 (or momentum) values, and controls that test its choosing.

Every run uses the same training script with the same flags; only the optimizer differs, and the learning rate if the
sweep goes over several. A fixed value runs with ``type=default``, which is torch's own optimizer, bit for bit.
"""

from .conclusion import conclude
from .errors import SweepError
from .findings import findings
from .members import Member, plan
from .outcome import Outcome
from .runner import run
from .summary import edge_note, table

__all__ = ["Member", "Outcome", "SweepError", "conclude", "edge_note", "findings", "plan", "run", "table"]
