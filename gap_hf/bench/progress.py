"""The progress bar."""

import os
from time import monotonic

import rich.progress
from rich.console import Console

REFRESH = 0.1
"""Seconds between two drawings."""


class Progress:
    """A progress report that goes nowhere; subclasses show it."""

    def begin(self, what: str, total: int | None) -> None:
        """Begin with ``what``, which takes ``total`` steps, or an unknown number of them."""

    def advance(self, steps: int) -> None:
        """Report that this many more steps are done."""


class Bar(Progress):
    """A progress bar on the standard error if that is a terminal, else nothing.

    It draws only when it is told of an advance: a thread that drew by itself would disturb what is being timed.
    """

    def __init__(self) -> None:
        # its own handle of the standard error, which is silenced at times
        self.console = Console(file=os.fdopen(os.dup(2), "w"))
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            console=self.console,
            auto_refresh=False,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=None)
        self.drawn = 0.0

    def begin(self, what: str, total: int | None) -> None:
        self.bar.reset(self.task, description=what, total=total)
        self.bar.refresh()

    def advance(self, steps: int) -> None:
        self.bar.advance(self.task, steps)
        if monotonic() - self.drawn > REFRESH:
            self.drawn = monotonic()
            self.bar.refresh()

    def __enter__(self) -> "Bar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        self.console.file.close()
