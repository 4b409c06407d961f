"""The comparison of several runs: their losses, and what the gap optimizers among them applied."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from ..choices import Choices
from .candidates import all_candidates, applied_values, stretches
from .loss import draw_line, line_styles, plain_numbers
from .plot import SHARE_POINTS, legend
from .run import Run
from .summary import summarise

LAST = 10
"""How many logged losses at the end of a run its final loss is the mean of: one alone is noisy."""


def choices_figure(runs: list[Run]) -> Figure | None:
    """Draw the mean of the applied candidates over steps, with a line per run that has one; None if no run has one.

    A run has no such mean if it has no choices file, or a candidate without a value.
    """
    means = [mean_applied(run.choices) if run.choices else None for run in runs]
    if all(applied is None for applied in means):
        return None
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    handles: list[Artist] = []
    kinds = []
    # colours as in the loss figure
    for run, applied, (color, style) in zip(runs, means, line_styles(len(runs)), strict=True):
        if run.choices is None or applied is None:
            continue
        handles += draw_line(axes, *applied, color=color, linestyle=style, label=run.name)
        kinds.append(run.choices.candidate)
    kind = " or ".join(dict.fromkeys(kinds))
    axes.set(xlabel="step", ylabel=f"mean {kind}", title=f"Mean {kind} that GAP applied")
    axes.grid(alpha=0.3)
    plain_numbers(axes)
    legend(figure, handles)
    return figure


def mean_applied(choices: Choices) -> tuple[list[float], list[float]] | None:
    """Return the middles of short stretches of steps and the mean applied value in each; None without values."""
    applied = applied_values(choices, all_candidates(choices))
    if applied is None:
        return None
    starts = stretches(len(applied), SHARE_POINTS)
    means = [float(block.mean()) for block in np.split(applied, starts[1:])]
    middles = [float(block.mean()) for block in np.split(choices.steps, starts[1:])]
    return middles, means


def table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Return the column titles and the rows of text, one row per run.

    "as the first" says how many choices equal the first run's, over the steps that both have, if both chose for the
    same parameters among the same candidates; of two mixes it says how much of the weights is the same. Columns without
    an entry are left out.
    """
    head = [
        "run",
        "steps",
        f"loss, last {LAST} logs",
        "evaluation loss",
        "best",
        "mean applied",
        "changed",
        "as the first",
    ]
    return without_empty_columns(head, [row(run, runs[0]) for run in runs])


def without_empty_columns(head: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Keep only the columns in which some row has an entry."""
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def row(run: Run, first: Run) -> list[str]:
    """Make one row of ``table``."""
    losses = run.curve("loss")[1]
    evaluations = run.curve("eval_loss")[1]
    whole = summarise(run.choices)[0] if run.choices else None
    return [
        run.name,
        str(run.last_step) if run.last_step else "",
        f"{np.mean(losses[-LAST:]):.4f}" if losses else "",
        f"{evaluations[-1]:.4f}" if evaluations else "",
        f"{min(evaluations):.4f}" if evaluations else "",
        f"{run.choices.candidate} {whole.mean:.4g}" if run.choices and whole and not np.isnan(whole.mean) else "",
        f"{whole.changed:.1%}" if whole and not np.isnan(whole.changed) else "",
        agreement(run, first),
    ]


def agreement(run: Run, first: Run) -> str:
    """Return the share of equal choices, or of weights that two mixes have in common; empty if that can't be told."""
    if run is first or run.choices is None or first.choices is None:
        return ""
    one, other = first.choices, run.choices
    if (one.parameters, one.candidates) != (other.parameters, other.candidates):
        return ""
    _, mine, theirs = np.intersect1d(one.steps, other.steps, return_indices=True)
    if not len(mine):
        return ""
    if one.weights is None and other.weights is None:
        return f"{(one.choices[mine] == other.choices[theirs]).mean():.1%}"
    if one.weights is None or other.weights is None:
        return ""
    return f"{np.minimum(one.weights[mine], other.weights[theirs]).sum(axis=2).mean():.1%}"
