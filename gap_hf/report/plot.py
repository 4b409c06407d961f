"""Two pictures of a run: candidate share over time, and which parameter chose what when."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..trainer.record import Choices, read_choices
from .names import axis_labels, reading_order

MOST_COLUMNS = 600
"""Columns of the heat map; more steps than that are averaged over equal stretches."""
SHARE_POINTS = 60
"""Points of the share curve; each averages an equal stretch of steps."""


def plot_run(run_dir: str | Path, out_dir: str | Path | None = None) -> list[Path]:
    """Draw ``gap_share.png`` and ``gap_layers.png`` of a run.

    Args:
        run_dir: a Trainer's ``output_dir``, or the choices file itself.
        out_dir: where the pictures go; next to the choices file by default.

    Returns:
        The two paths.

    Raises:
        FileNotFoundError: no choices file there.
        ValueError: the file can't be read or holds no steps.
    """
    run_dir = Path(run_dir)
    choices = read_choices(run_dir)
    out = Path(out_dir) if out_dir is not None else run_dir if run_dir.is_dir() else run_dir.parent
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "gap_share.png", out / "gap_layers.png"]
    for path, figure in zip(paths, (share_figure(choices), layers_figure(choices)), strict=True):
        figure.savefig(path, dpi=130)
    return paths


def share_figure(choices: Choices) -> Figure:
    """Stacked share of each candidate over steps, averaged over parameters and short stretches of steps."""
    labels = all_labels(choices)
    chosen = label_indices(choices, labels)
    starts = stretches(len(choices.steps), SHARE_POINTS)
    share = [np.add.reduceat((chosen == k).mean(axis=1), starts) for k in range(len(labels))]
    lengths = np.diff(np.append(starts, len(choices.steps)))
    centre = np.add.reduceat(choices.steps, starts) / lengths
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    names = [f"{choices.candidate} = {label}" for label in labels]
    axes.stackplot(centre, [s / lengths for s in share], labels=names, colors=palette(len(labels)))
    axes.set(xlabel="step", ylabel="share of choices", ylim=(0, 1), title="Which candidate GAP applied")
    if len(centre) > 1:
        axes.set_xlim(centre[0], centre[-1])
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(labels), 5), frameon=False
    )
    return figure


def layers_figure(choices: Choices) -> Figure:
    """Heat map, one row per parameter and one column per step (or stretch of steps), coloured by the choice."""
    order = reading_order(choices.parameters)
    names = [choices.parameters[i] for i in order]
    labels = all_labels(choices)
    chosen = label_indices(choices, labels)[:, order]
    starts = stretches(len(choices.steps), MOST_COLUMNS)
    lengths = np.diff(np.append(starts, len(choices.steps)))
    image = (np.add.reduceat(chosen, starts, axis=0) / lengths[:, None]).T
    rows = len(names)
    figure = Figure(figsize=(9, min(max(2.6, 1.6 + 0.19 * rows), 12)), layout="constrained")
    axes = figure.subplots()
    first, last = choices.steps[0], choices.steps[-1]
    colors = palette(len(labels))
    smooth = len(starts) < len(choices.steps)
    axes.imshow(
        image,
        aspect="auto",
        interpolation="nearest",
        cmap="viridis" if smooth else ListedColormap(colors),
        vmin=0 if smooth else -0.5,
        vmax=max(len(labels) - 1, 1) if smooth else len(labels) - 0.5,
        extent=(first - 0.5, last + 0.5, rows - 0.5, -0.5),
    )
    row_of = {parameter: row for row, parameter in enumerate(order)}
    if choices.resets:
        steps, parameters = zip(*choices.resets, strict=True)
        axes.plot(steps, [row_of[p] for p in parameters], "x", color="tab:red", markersize=4)
    ticks = axis_labels(names)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=7)
    average = f", averaged over {lengths.max()} steps" if smooth else ""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="step", title=f"{choices.candidate} applied to each parameter{average}")
    handles: list[Artist] = [
        Patch(color=c, label=f"{choices.candidate} = {label}") for c, label in zip(colors, labels, strict=True)
    ]
    if choices.resets:
        handles.append(axes.plot([], [], "x", color="tab:red", label="soft reset")[0])
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), frameon=False)
    return figure


def all_labels(choices: Choices) -> list[str]:
    """Every candidate that some parameter has, by value."""
    labels = dict.fromkeys(label for one in choices.labels for label in one)
    return sorted(labels, key=lambda label: [float(number) for number in label.split("/")])


def label_indices(choices: Choices, labels: list[str]) -> np.ndarray:
    """The choices ``(T, P)`` as indices into ``labels``, whatever order each parameter lists its candidates in."""
    widest = max(map(len, choices.labels))
    table = np.array([[labels.index(label) for label in one] + [0] * (widest - len(one)) for one in choices.labels])
    return table[np.arange(len(choices.labels)), choices.choices]


def stretches(count: int, most: int) -> np.ndarray:
    """First index of each of at most ``most`` stretches of equal length (the last may be shorter)."""
    return np.arange(0, count, -(-count // most))


def palette(count: int) -> list[str]:
    """``count`` colours of viridis, which colour-blind readers and grey prints tell apart."""
    return [to_hex(colormaps["viridis"](i / max(count - 1, 1))) for i in range(count)]
