"""The pictures of a run: what was applied over time, to which parameter and when, and how clearly it won."""

import textwrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ..candidate import Candidate
from ..choices import Choices
from .candidates import all_candidates, applied_in, applied_values, display_names, stretches, values_of
from .names import axis_labels, reading_order, rows_of_a_layer

MOST_COLUMNS = 600
"""Columns of the heat map at most; in a longer run, each column stands for several steps."""
SHARE_POINTS = 60
"""Columns of the share picture at most; each averages several steps."""
MARGIN_POINTS = 120
"""Columns of the margin picture at most."""
LONGEST_LABEL = 60
"""Characters of a row label at most; a longer name loses its beginning."""

LEGEND_ROWS, LEGEND_ROW = 6, 0.2
"""How many rows a legend may take of a figure's height, and how many inches more each further row needs."""


def figures(choices: Choices) -> dict[str, Figure]:
    """Draw all pictures that a run's choices allow, by file name."""
    drawn = {"gap_share": share_figure(choices), "gap_layers": layers_figure(choices)}
    if not np.isnan(choices.margins).all():  # one candidate, or a file of an older version
        drawn["gap_margins"] = margins_figure(choices)
    return drawn


def share_figure(choices: Choices) -> Figure:
    """Draw each candidate's share, or mean weight in a mix, stacked over steps: means over parameters and stretches."""
    candidates = all_candidates(choices)
    starts = stretches(len(choices.steps), SHARE_POINTS)
    share = applied_in(choices, candidates, starts).sum(axis=2)
    share = share / share.sum(axis=0)
    share = np.append(share, share[:, -1:], axis=1)  # the last column ends where no other begins
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    edges = column_edges(choices, starts)
    axes.stackplot(edges, share, step="post", colors=palette(len(candidates)), linewidth=0)
    picks = choices.weights is None
    axes.set(xlabel="step", ylabel="share of choices" if picks else "mean weight", ylim=(0, 1))
    axes.set(title="Which candidate GAP applied" if picks else "How much of each candidate GAP applied")
    axes.set_xlim(edges[0], edges[-1])
    step_ticks(axes)
    legend(figure, candidate_patches(choices, candidates))
    return figure


def layers_figure(choices: Choices) -> Figure:
    """Draw a heat map of what was applied, with a row per parameter and a column per step (or stretch of steps)."""
    order = reading_order(choices.parameters)
    names = [choices.parameters[i] for i in order]
    starts = stretches(len(choices.steps), MOST_COLUMNS)
    rows = len(names)
    figure = Figure(figsize=(9, min(max(2.6, 1.6 + 0.19 * rows), 12)), layout="constrained")
    axes = figure.subplots()
    handles = draw_picks(axes, choices, starts, order) if choices.weights is None else []
    if choices.weights is not None:
        draw_mixes(axes, choices, starts, order)
    axes.invert_yaxis()
    if choices.resets:
        row_of = {parameter: row for row, parameter in enumerate(order)}
        steps, parameters = zip(*choices.resets, strict=True)
        handles += axes.plot(
            steps,
            [row_of[p] for p in parameters],
            "x",
            color="white",  # outlined in black: seen on every colour
            path_effects=[withStroke(linewidth=3, foreground="black")],
            markersize=4,
            label="soft reset",
        )
    ticks = axis_labels(names)
    shown = [label if len(label) <= LONGEST_LABEL else "…" + label[1 - LONGEST_LABEL :] for label in ticks.values()]
    axes.set_yticks(list(ticks), shown, fontsize=7)
    together = -(-len(choices.steps) // len(starts))
    kind = "most frequent choice" if choices.weights is None else "mean"
    often = f" (each column: the {kind} of {together} steps)" if len(starts) < len(choices.steps) else ""
    inside = rows_of_a_layer(names) if len(ticks) < rows else []
    caption = f"rows of each layer, top to bottom: {', '.join(inside)}" if inside else ""
    axes.set(xlabel="\n".join([f"step{often}", *textwrap.wrap(caption, 100)]))
    step_ticks(axes)
    if handles:
        legend(figure, handles)
    return figure


def draw_picks(axes: Axes, choices: Choices, starts: np.ndarray, order: list[int]) -> list[Artist]:
    """Colour each parameter and stretch by the most frequent choice; return the legend's entries."""
    candidates = all_candidates(choices)
    image = applied_in(choices, candidates, starts).argmax(axis=0)[:, order].T
    colors = ListedColormap(palette(len(candidates)))
    draw_map(axes, choices, starts, image, cmap=colors, vmin=-0.5, vmax=len(candidates) - 0.5)
    axes.set_title(f"{choices.candidate} applied to each parameter")
    return candidate_patches(choices, candidates)


def draw_mixes(axes: Axes, choices: Choices, starts: np.ndarray, order: list[int]) -> None:
    """Colour each parameter and stretch by the mean value of its mix, or by the largest weight if there are no values.

    The colours span all that a mix could be, so that small movements look small.
    """
    candidates = all_candidates(choices)
    applied, values = applied_values(choices, candidates), values_of(candidates)
    if applied is not None and values is not None:
        label, low, high = f"mean {choices.candidate}", float(values[0]), float(values[-1])
        axes.set_title(f"Mean {choices.candidate} of each parameter's mix")
    else:
        assert choices.weights is not None
        label, low, high = "largest weight", 1 / len(candidates), 1.0
        applied = choices.weights.max(axis=2)
        axes.set_title("Largest weight in each parameter's mix")
    lengths = np.diff(np.append(starts, len(applied)))
    image = (np.add.reduceat(applied, starts, axis=0, dtype=np.float64) / lengths[:, None])[:, order].T
    mesh = draw_map(axes, choices, starts, image, cmap="viridis", vmin=low, vmax=high)
    assert axes.figure is not None
    axes.figure.colorbar(mesh, ax=axes, label=label, fraction=0.05, pad=0.02)


def draw_map(axes: Axes, choices: Choices, starts: np.ndarray, image: np.ndarray, **style: Any) -> QuadMesh:
    """Draw an image with a row per parameter and a column per stretch."""
    rows = np.arange(len(image) + 1) - 0.5
    # as pixels also in an SVG file: up to 600 columns times thousands of rows
    return axes.pcolormesh(column_edges(choices, starts), rows, image, rasterized=True, **style)


def margins_figure(choices: Choices) -> Figure:
    """Draw the margins' median and spread over parameters and short stretches of steps, and the soft resets."""
    starts = stretches(len(choices.steps), MARGIN_POINTS)
    levels = [5, 25, 50, 75, 95]
    found = np.array(
        [
            np.full(len(levels), np.nan) if np.isnan(block).all() else np.nanpercentile(block, levels)
            for block in np.split(choices.margins, starts[1:])
        ]
    )
    found = np.append(found, found[-1:], axis=0)  # the last column ends where no other begins
    edges = column_edges(choices, starts)
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    handles: list[Artist] = [
        axes.fill_between(edges, found[:, low], found[:, high], step="post", color=color, linewidth=0, label=label)
        for low, high, color, label in ((0, 4, "#d5dfea", "middle 90 %"), (1, 3, "#9db7d2", "middle 50 %"))
    ]
    handles += axes.step(edges, found[:, 2], where="post", color="#1f3f66", label="median")
    bottom = min(0.0, float(np.nanmin(found)))
    if bottom < 0:
        axes.axhline(0, color="black", linewidth=0.8)
    if choices.resets:
        steps = sorted({step for step, _ in choices.resets})
        handles += axes.plot(
            steps, [bottom] * len(steps), "x", color="black", markersize=5, clip_on=False, label="soft reset"
        )
    axes.set(
        xlabel="step\n0: a tie; 1: the other candidates point against the gradient",
        ylabel="margin of the applied candidate",
        title="How clearly the applied candidate won",
        xlim=(edges[0], edges[-1]),
        ylim=(bottom, 1),
    )
    step_ticks(axes)
    legend(figure, handles)
    return figure


def column_edges(choices: Choices, starts: np.ndarray) -> np.ndarray:
    """Return where columns begin on the step axis, and where the last ends: step n spans n - 0.5 to n + 0.5."""
    return np.append(choices.steps[starts] - 0.5, choices.steps[-1] + 0.5)


def candidate_patches(choices: Choices, candidates: list[Candidate]) -> list[Artist]:
    """Make the legend's entries for the candidates."""
    names = display_names(choices, candidates)
    return [Patch(color=color, label=name) for color, name in zip(palette(len(candidates)), names, strict=True)]


def legend(figure: Figure, handles: list[Artist]) -> None:
    """Put the legend below, in as many columns as fit; below a long one, the figure grows."""
    room = figure.get_figwidth() * 11  # characters that fit side by side
    widest = max(len(str(handle.get_label())) for handle in handles) + 8
    ncols = max(1, min(len(handles), int(room / widest)))
    rows = -(-len(handles) // ncols)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(rows - LEGEND_ROWS, 0))
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False)


def step_ticks(axes: Axes) -> None:
    """Put ticks at whole steps only."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def palette(count: int) -> list[str]:
    """Return ``count`` colours of viridis, which can be told apart by colour-blind readers and in grey prints."""
    return [to_hex(colormaps["viridis"](i / max(count - 1, 1))) for i in range(count)]
