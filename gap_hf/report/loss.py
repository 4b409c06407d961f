"""A picture of the training and evaluation losses of one run or several."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .plot import legend, step_ticks
from .run import Run

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow that white paper swallows;
# https://jfly.uni-koeln.de/color/
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLES = ["-", "--", ":", "-."]


def line_styles(count: int) -> list[tuple[str, str]]:
    """Return ``count`` different (colour, line style) pairs; there are 28."""
    colors = cycle(COLORS)
    return [(next(colors), STYLES[i // len(COLORS) % len(STYLES)]) for i in range(count)]


def draw_line(axes: Axes, steps: Sequence[float], values: Sequence[float], **style: Any) -> list[Any]:
    """Draw a line over steps; a single point, for which a line would show nothing, becomes a dot."""
    return axes.plot(steps, values, marker="." if len(steps) == 1 else None, **style)


def plain_numbers(axes: Axes) -> None:
    """Label axes with whole steps, and with values as they are instead of differences from a number in the corner."""
    step_ticks(axes)
    axes.ticklabel_format(axis="y", useOffset=False)


def loss_figure(runs: list[Run]) -> Figure | None:
    """Draw the logged losses over steps as lines, and evaluation losses as points; None if no run has logged any."""
    if not any(run.curve("loss")[0] for run in runs):
        return None
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    handles: list[Artist] = []
    for run, (color, style) in zip(runs, line_styles(len(runs)), strict=True):
        name = run.name if len(runs) > 1 else "training loss"
        handles += draw_line(axes, *run.curve("loss"), color=color, linestyle=style, label=name)
        steps, losses = run.curve("eval_loss")
        points = axes.plot(steps, losses, "o", color=color, markerfacecolor="white", label="evaluation loss")
        if steps and len(runs) == 1:
            handles += points
    title = "Loss" if len(runs) == 1 else "Training loss (lines) and evaluation loss (points)"
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.grid(alpha=0.3)
    plain_numbers(axes)
    legend(figure, handles)
    return figure
