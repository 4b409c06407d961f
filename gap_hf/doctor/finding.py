"""What the doctor says: one line about one thing."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """How it is."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "refused"
    MISSING = "missing"


@dataclass
class Finding:
    """One line: what was looked at, how it is, and what to know or to do about it."""

    what: str
    state: State
    text: str = ""
