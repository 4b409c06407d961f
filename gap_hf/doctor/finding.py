"""A finding of the doctor: one line about one thing."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """The verdict of a finding, in the word that is printed."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "refused"
    MISSING = "missing"


@dataclass
class Finding:
    """One line: what was looked at, the verdict, and what to know or to do about it."""

    what: str
    state: State
    text: str = ""
