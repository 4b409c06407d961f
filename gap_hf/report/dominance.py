"""The picture that says whether choosing mattered: how nearly one candidate made up all, and how gradients agreed."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..choices.dominance import NEARLY_ALWAYS
from .candidates import all_candidates, display_names
from .loss import draw_line
from .plot import column_edges, legend, palette, step_ticks
from .run import Run, choices_of
from .verdict import lead

NBSP = "\N{NO-BREAK SPACE}"

LOGGED = {
    "gap/dominance": ("gap/dominance, as logged", "#7a7a7a"),
    "gap/correlation": ("correlation of successive gradients", "#0072B2"),
}
"""What Trainer's log adds, with its label and colour."""


def dominance_figure(run: Run, sentence: str = "") -> Figure:
    """Draw the share of the most-applied candidate over steps and, if they were logged, ``LOGGED`` below it.

    Args:
        run: a run with choices.
        sentence: what to write below the picture.
    """
    choices = choices_of(run)
    edges = column_edges(choices, lead(choices).starts)
    curves = {key: curve for key in LOGGED if (curve := within(*run.curve(key), edges))[0]}
    figure = Figure(figsize=(8, 5.2 if curves else 4), layout="constrained")
    if curves:
        above, below = figure.subplots(2, sharex=True, height_ratios=[2, 1])
    else:
        above = below = figure.subplots()
    handles = draw_lead(above, run)
    for key, (steps, values) in curves.items():
        label, color = LOGGED[key]
        handles += draw_line(below, steps, values, color=color, label=label)
    if curves:
        below.set_ylim(min(-0.05, *(1.1 * min(values) for _, values in curves.values())), 1.05)
        below.axhline(0, color="black", linewidth=0.8)
        below.grid(alpha=0.3)
    above.set(title="Did choosing matter here?", xlim=(edges[0], edges[-1]))
    # "beta1 = 0.8" and "98 %" stay on one line
    kept_together = sentence.replace(" = ", f"{NBSP}={NBSP}").replace(" %", f"{NBSP}%")
    below.set(xlabel="\n".join(["step", *textwrap.wrap(kept_together, 100)]))
    step_ticks(below)
    legend(figure, handles)
    return figure


def within(steps: Sequence[int], values: Sequence[float], edges: np.ndarray) -> tuple[list[int], list[float]]:
    """Keep what was logged where the picture is, and is finite."""
    kept = [(s, v) for s, v in zip(steps, values, strict=True) if edges[0] < s < edges[-1] and np.isfinite(v)]
    return [step for step, _ in kept], [value for _, value in kept]


def draw_lead(axes: Axes, run: Run) -> list[Artist]:
    """Draw the share of the most-applied candidate in each stretch, in its colour; return the legend's entries."""
    choices = choices_of(run)
    candidates = all_candidates(choices)
    names, colors = display_names(choices, candidates), palette(len(candidates))
    led = lead(choices)
    edges = column_edges(choices, led.starts)
    handles: list[Artist] = []
    for k in np.unique(led.candidates).tolist():
        heights = np.where(led.candidates == k, led.shares, 0.0)
        # the last column ends where no other begins
        axes.fill_between(edges, np.append(heights, heights[-1]), step="post", color=colors[k], linewidth=0)
        handles.append(Patch(color=colors[k], label=f"mostly {names[k]}"))
    what, amount = ("choice", "share") if choices.weights is None else ("mix", "weight")
    label = f"{100 * NEARLY_ALWAYS:.0f} %: hardly a {what}"
    axes.set(ylabel=f"{amount} of the leader", ylim=(0, 1))
    return [*handles, axes.axhline(NEARLY_ALWAYS, color="#D55E00", linestyle="--", label=label)]
