"""The table of a sweep: a row per optimizer."""

import json
import statistics
from collections.abc import Sequence

from ..report.compare import LAST, without_empty_columns
from ..report.run import Run
from .members import DONE, Member

Measured = tuple[float | None, float | None, float | None, float | None]


def table(members: Sequence[Member], runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Return the titles of the columns and the rows of text, one per optimizer, with means over the seeds.

    The best fixed value is marked.

    Args:
        members: the runs that ``plan`` returned.
        runs: what each of them left.
    """
    head = ["", f"loss, last {LAST} logs", "evaluation loss", "against GAP", "mean applied", "seconds"]
    figures: dict[str, list[Measured]] = {}
    for member, run in zip(members, runs, strict=True):
        figures.setdefault(member.name, []).append(measure(member, run))
    names = list(figures)
    key = 1 if all(one[1] is not None for group in figures.values() for one in group) else 0
    means = {name: mean([one[key] for one in group]) for name, group in figures.items()}
    fixed = [name for name in names[1:] if means[name] is not None]
    best = min(fixed, key=lambda name: means[name] or 0.0, default=None)
    rows = []
    for name in names:
        group = figures[name]
        mine, gap = means[name], means[names[0]]
        rows.append(
            [
                name + (" (best fixed)" if name == best else ""),
                spread([one[0] for one in group]),
                spread([one[1] for one in group]),
                f"{mine - gap:+.4f}" if name != names[0] and mine is not None and gap is not None else "",
                spread([one[2] for one in group], 3),
                f"{mean([one[3] for one in group]) or 0:.0f}",
            ]
        )
    return without_empty_columns(head, rows)


def measure(member: Member, run: Run) -> Measured:
    """Return a run's loss at the end, its last evaluation loss, its mean applied candidate and its seconds."""
    losses = run.curve("loss")[1][-LAST:]
    values = run.curve(f"gap/{member.candidate}")[1]
    seconds = json.loads((member.directory / DONE).read_text(encoding="utf-8"))["seconds"]
    return (
        statistics.fmean(losses) if losses else None,
        run.last("eval_loss"),
        statistics.fmean(values) if values else None,
        seconds,
    )


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of ``values``; None if one of them is missing."""
    kept = [value for value in values if value is not None]
    return statistics.fmean(kept) if kept and len(kept) == len(values) else None


def spread(values: Sequence[float | None], digits: int = 4) -> str:
    """The mean, and for several values the standard deviation, as text; empty if one of them is missing."""
    middle = mean(values)
    if middle is None:
        return ""
    kept = [value for value in values if value is not None]
    return f"{middle:.{digits}f}" + (f" ± {statistics.stdev(kept):.{digits}f}" if len(kept) > 1 else "")
