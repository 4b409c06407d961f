"""The figures of the evidence, as SVG; the same results give the same files.

PYTHONPATH=recipes python -m evidence.plot
"""

import argparse
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .analyse import PICKS, TITLES
from .compare import FIXED_NAMES, Interval, Results, load
from .contenders import REFERENCE
from .real import REAL_STUDIES
from .studies import STUDIES
from .table import RESULTS

SHOWN = {
    "mix_.5_.9_.99": ("constant mix of .5, .9, .99", "#0072b2", "o"),
    "qhm": ("QHM: 0.3 g + 0.7 m", "#56b4e9", "s"),
    "mix_score_.5_.9_.99": ("mix by scores", "#009e73", "D"),
    "pw_.5_.99": ("pick for each parameter, .5 / .99", "#d55e00", "^"),
    "switch_.5_.9_.99": ("pick for all, .5 / .9 / .99", "#e69f00", "v"),
    REFERENCE: ("fixed 0.9", "#000000", "x"),
}
"""Contenders in the figures: label, colour, marker."""

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "gap_hf",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
UNITS = {"quadratic": 10.0}
"""Its loss is counted in decades, and drawn in tens of them."""


def intervals(all_: dict[str, Results], compare: Callable[[Results, str], Interval | None], title: str) -> Figure:
    """A row for each study, a point with its interval for each contender."""
    figure = Figure(figsize=(7.5, 0.62 * len(all_) + 1.6), layout="constrained")
    axes = figure.subplots()
    for row, (study, results) in enumerate(all_.items()):
        for k, (name, (label, colour, marker)) in enumerate(SHOWN.items()):
            value, unit = compare(results, name), UNITS.get(study, 1.0)
            y = row + 0.13 * (k - (len(SHOWN) - 1) / 2)
            if value is not None:
                x, half = value.mean / unit, 0.0 if isnan(value.half) else value.half / unit
                shown = "" if row else label
                axes.errorbar(x, y, xerr=half, fmt=marker, color=colour, markersize=4, elinewidth=1, label=shown)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=0.05)
    axes.set_xticks([-0.5, -0.1, -0.05, -0.02, 0, 0.02, 0.05, 0.1, 0.5])
    axes.set_xticklabels(["-.5", "-.1", "-.05", "-.02", "0", ".02", ".05", ".1", ".5"])
    axes.minorticks_off()
    labels = [TITLES[study] + (", in tens of decades" if study in UNITS else "") for study in all_]
    axes.set_yticks(range(len(all_)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("held-out loss, lower is better; paired 95 % intervals")
    figure.suptitle(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def panels(all_: dict[str, Results], draw: Callable[[Axes, Results], None], x: str, y: str) -> Figure:
    """A small plot for each study."""
    columns = 4
    rows = -(-len(all_) // columns)
    figure = Figure(figsize=(10, 2.3 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, study in zip(grid.flat, all_, strict=False):
        draw(axes, all_[study])
        axes.set_title(TITLES[study], fontsize=9)
    for axes in grid.flat[len(all_) :]:
        axes.set_axis_off()
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    return figure


def draw_rates(axes: Axes, results: Results) -> None:
    """The mean loss by learning rate: fixed values in greys, the others in colours."""
    lowest = min((best.mean for name in results.contenders() if (best := results.best(name))), default=0.0)
    start = max(loss for k in results.grid(REFERENCE) for loss in results.at(REFERENCE, k).values())
    for k, name in enumerate(FIXED_NAMES):
        draw_curve(axes, results, name, str(0.8 - 0.13 * k), "", f"fixed {name[6:]}")
    for name, (label, colour, marker) in SHOWN.items():
        if name != REFERENCE:
            draw_curve(axes, results, name, colour, marker, label)
    axes.set_xscale("log", base=2)
    far = 1.0 if lowest < 0 else 0.5  # logarithms have no long tail
    axes.set_ylim(lowest - 0.05 * abs(start - lowest), lowest + far * abs(start - lowest))


def draw_curve(axes: Axes, results: Results, name: str, colour: str, marker: str, label: str) -> None:
    """One contender's mean losses."""
    ks = results.grid(name)
    means = [sum(results.at(name, k).values()) / len(results.at(name, k)) for k in ks]
    axes.plot([2.0**k for k in ks], means, color=colour, marker=marker, markersize=3, linewidth=1, label=label)


def draw_shares(axes: Axes, results: Results) -> None:
    """The share of the smallest candidate by learning rate; a dot at the best one."""
    for name, colour in zip(PICKS, ("#d55e00", "#cc79a7", "#e69f00", "#009e73"), strict=True):
        shares = {k: share for k in results.grid(name) if (share := results.share(name, k)) is not None}
        axes.plot([2.0**k for k in shares], list(shares.values()), color=colour, linewidth=1, label=name)
        best = results.best(name)
        if best is not None and best.k in shares:
            axes.plot([2.0**best.k], [shares[best.k]], "o", color=colour, markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1.03)


def figures(results: Path) -> dict[str, Figure]:
    """All figures by file name."""
    all_ = load((*STUDIES, *REAL_STUDIES), results)
    return {
        "regret": intervals(all_, Results.regret, "Against the best fixed beta1, each at its own best learning rate"),
        "tuned": intervals(all_, Results.at_tuned, "Against 0.9, at the learning rate tuned for 0.9"),
        "rates": panels(all_, draw_rates, "learning rate", "held-out loss"),
        "shares": panels(all_, draw_shares, "learning rate", "share of the smallest candidate"),
    }


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the directory of the files")
    parser.add_argument("--out", type=Path, help="where the figures go; beside the results")
    args = parser.parse_args()
    out = args.out or args.results.parent
    out.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, figure in figures(args.results).items():
            figure.savefig(out / f"{name}.svg", metadata={"Date": None})
            print(out / f"{name}.svg")


if __name__ == "__main__":
    main()
