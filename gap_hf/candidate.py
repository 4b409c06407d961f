"""``Candidate``: one of the settings that a gap optimizer chooses among, as logs, files and plots know it."""

from typing import NamedTuple


class Candidate(NamedTuple):
    """One of the K candidates of a parameter.

    Attributes:
        label: a short text for logs, plots and files. Nothing reads a number out of it.
        value: a number for taking means, such as beta1 or the momentum; None if the candidate has none.
        family: the name of the candidate's arithmetic: ``"adam"`` or ``"sgdm"``.
    """

    label: str
    value: float | None
    family: str
