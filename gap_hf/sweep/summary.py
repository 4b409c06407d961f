"""The table of a sweep: a row per contender, at its own best learning rate."""

import math
import statistics
from collections.abc import Sequence

from ..report.compare import LAST, without_empty_columns
from ..report.paired import Difference
from .contenders import Contender, Role
from .outcome import Outcome, by_seed


def table(outcome: Outcome) -> tuple[list[str], list[list[str]]]:
    """Return the titles of the columns and the rows of text, one per contender, with means over the seeds.

    Columns without an entry are left out.
    """
    interval = " ± 95 %" if len(outcome.seeds) > 1 else ""
    usual = outcome.usual()
    against = f"against {usual.name} at its lr{interval}" if usual is not None else ""
    head = [
        "",
        "best lr",
        f"loss, last {LAST} logs",
        "evaluation loss",
        f"regret{interval}",
        against,
        "mean applied",
        "seconds",
    ]
    return without_empty_columns(head, [row(outcome, contender) for contender in outcome.contenders])


def row(outcome: Outcome, contender: Contender) -> list[str]:
    """Make one row of ``table``."""
    lr = outcome.best_lr(contender)
    group = outcome.measured[contender, lr]
    several = len(outcome.lrs) > 1
    return [
        named(outcome, contender),
        rate(outcome, contender) if several else "",
        spread(by_seed(group, "training")),
        spread(by_seed(group, "evaluation")),
        text(outcome.regret(contender)),
        transferred(outcome, contender) if several else "",
        spread(by_seed(group, "applied"), 3),
        f"{statistics.fmean(by_seed(group, 'seconds') or [0.0]):.0f}",
    ]


def named(outcome: Outcome, contender: Contender) -> str:
    """The contender's name, and what is special about it."""
    marks = [
        *(["best fixed"] if contender == outcome.best_fixed() else []),
        *(["smallest candidate"] if contender.role is Role.SMALLEST else []),
    ]
    return contender.name + (f" ({', '.join(marks)})" if marks else "")


def rate(outcome: Outcome, contender: Contender) -> str:
    """The contender's best learning rate, with a mark if it is at the edge of the grid."""
    if outcome.lost(contender):
        return ""
    return f"{outcome.best_lr(contender):g}" + (" (edge)" if outcome.edge(contender) is not None else "")


def edge_note(outcome: Outcome) -> str | None:
    """Say what to do about best learning rates at the edge of the grid; None if there are none."""
    further = {edge for contender in outcome.contenders if (edge := outcome.edge(contender)) is not None}
    if not further:
        return None
    tries = " ".join(f"--lr {lr:g}" for lr in sorted(further))
    return f"(edge): this optimum is at the edge of the grid: extend it, with {tries}."


def transferred(outcome: Outcome, contender: Contender) -> str:
    """Write the difference from the fixed 0.9 at 0.9's best learning rate as text."""
    usual = outcome.usual()
    if usual is None or contender == usual:
        return ""
    return text(outcome.transfer(contender)) or "diverged"


def text(found: Difference | None) -> str:
    """Write a difference as text; none is empty."""
    return "" if found is None else found.text


def spread(values: Sequence[float] | None, digits: int = 4) -> str:
    """The mean, and for several values the standard deviation, as text; empty without values."""
    if values is None:
        return ""
    if not all(map(math.isfinite, values)):
        return "diverged"
    middle = f"{statistics.fmean(values):.{digits}f}"
    return middle + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")
