"""What the parts have in common: seed and time on the command line, a line of progress, a last line of figures."""

import argparse
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from tqdm.auto import tqdm


def parser(module: str, description: str, minutes: float) -> argparse.ArgumentParser:
    """A command line with ``--seed``, ``--minutes`` and ``--logs``; from here on SIGTERM ends all processes, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    found = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    found.add_argument("--seed", type=int, default=0, help="the same seed tries the same things")
    found.add_argument("--minutes", type=float, default=minutes, help="begin nothing new after them")
    found.add_argument("--logs", type=Path, help="keep what the processes wrote there, instead of in a temporary place")
    return found


class Part:
    """Counts what was tried and what was lost.

    Args:
        name: of the part.
        unit: what is counted by ``done``.
        total: how many are planned.
        minutes: after which nothing new is begun.
        quiet: without the line of progress.
    """

    def __init__(self, name: str, unit: str, total: int, minutes: float, quiet: bool = False) -> None:
        self.name, self.unit, self.total = name, unit, total
        self.begun = time.monotonic()
        self.deadline = self.begun + 60 * minutes
        self.lost: list[str] = []
        self.figures: Counter[str] = Counter()
        self.bar = tqdm(total=total, unit=unit, desc=name, disable=quiet, mininterval=1, dynamic_ncols=True)

    def time_is_up(self) -> bool:
        return time.monotonic() >= self.deadline

    def done(self, count: int = 1, **figures: int) -> None:
        """``count`` more are done; ``figures`` are added up."""
        self.figures.update({self.unit: count, **figures})
        self.bar.set_postfix(lost=len(self.lost), refresh=False)
        self.bar.update(count)

    def lose(self, what: str) -> None:
        """Something was lost: say what, and how to see it again."""
        self.lost.append(what)
        self.bar.write(f"LOST: {what}", file=sys.stderr)

    def summary(self) -> str:
        """The figures in one line."""
        self.bar.close()
        done = self.figures.pop(self.unit, 0)
        parts = [f"{done:,} of {self.total:,} {self.unit}"] if done < self.total else [f"{done:,} {self.unit}"]
        parts += [f"{count:,} {what.replace('_', ' ')}" for what, count in self.figures.items()]
        parts += [f"lost: {len(self.lost)}"]
        return f"{self.name}: {', '.join(parts)} ({time.monotonic() - self.begun:.0f} s)"

    def end(self) -> None:
        """Print the summary and leave, with status 1 if something was lost."""
        print(self.summary(), flush=True)
        raise SystemExit(bool(self.lost))
