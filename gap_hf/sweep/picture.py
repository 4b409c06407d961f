"""The picture of a sweep over learning rates: loss against learning rate, with a line per contender."""

import math
import statistics
from typing import Any

from matplotlib.figure import Figure

from ..report.loss import line_styles
from ..report.plot import legend
from .outcome import Outcome

ROOM = 3.0
"""What is shown of the losses: so many times the way from the lowest mean to the middle one."""


def learning_rate_figure(outcome: Outcome) -> Figure | None:
    """Draw the mean loss over the learning rate; bars are standard deviations. None without several learning rates.

    Losses far above the rest are cut off: near divergence they would leave no room for the differences that matter.
    """
    if len(outcome.lrs) < 2:
        return None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    handles: list[Any] = []
    shown: list[float] = []
    for contender, (color, style) in zip(outcome.contenders, line_styles(len(outcome.contenders)), strict=True):
        points = [
            (lr, statistics.fmean(losses), statistics.stdev(losses) if len(losses) > 1 else 0.0)
            for lr in outcome.lrs
            if all(map(math.isfinite, losses := list(outcome.losses(contender, lr).values())))
        ]
        if not points:
            continue
        lrs, means, bars = zip(*points, strict=True)
        shown += means
        width, above = (2.2, 3) if contender == outcome.gap else (1.2, 2)
        handles.append(
            axes.errorbar(
                lrs, means, yerr=bars if len(outcome.seeds) > 1 else None,
                color=color, linestyle=style, linewidth=width, zorder=above, elinewidth=0.8, capsize=2, marker=".",
                label=contender.name,
            )
        )  # fmt: skip
    if not shown:
        return None
    low, middle = min(shown), statistics.median(shown)
    top = low + ROOM * (middle - low)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", title="Loss against learning rate")
    if max(shown) > top > low:
        axes.set_ylim(low - 0.1 * (top - low), top)
    ticks = [lr for lr in outcome.lrs if lr is not None]
    axes.set_xticks(ticks, [f"{lr:g}" for lr in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    legend(figure, handles)
    return figure
