"""The published optimizers that were tried as candidates, and what came out: ``methods.csv``, beside this file.

It tells what to expect before anything is built. A candidate is used only after it was looked at anew (``profile``), so
a newer version of its package is noticed.
"""

import csv
from importlib.resources import files
from typing import NamedTuple

TABLE = "methods.csv"


class Method(NamedTuple):
    """What was found out about an optimizer.

    Attributes:
        method: the name that it was published under.
        candidate: how it is written among the candidates.
        alone: ``exact`` or ``refused``, as the only candidate on two processes.
        beside_adamw: the same, with AdamW as another candidate.
        works_on: the finest cut of the parameters that it works on, and where that is to be had; or why it is refused.
        bytes: what it keeps for each element.
        package: the package that its class is in, and
        version: that package's version.
    """

    method: str
    candidate: str
    alone: str
    beside_adamw: str
    works_on: str
    bytes: str
    package: str
    version: str


def read() -> list[Method]:
    """Read the table."""
    text = files(__package__).joinpath(TABLE).read_text(encoding="utf-8")
    return [Method(**row) for row in csv.DictReader(text.splitlines())]
