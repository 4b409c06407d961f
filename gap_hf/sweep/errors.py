"""The error of a sweep that can't go on."""


class SweepError(Exception):
    """The error of a sweep that can't go on; it says why in one line (with the end of a run's output)."""
