"""The files of ``gap-hf plot`` and ``gap-hf compare``: pictures as PNG and SVG, and a page that holds them all."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..choices import Choices
from . import compare
from .candidates import all_candidates, display_names
from .dominance import dominance_figure
from .loss import loss_figure
from .page import DPI, Findings, Picture, Table, render, svg
from .plot import figures
from .run import Run, choices_of, read_run, read_runs
from .summary import summarise
from .verdict import verdict

FORMATS = ("png", "svg", "html")

CAPTIONS = {
    "gap_dominance": "The candidate that was applied most in each stretch of steps, and its share: near 1 there was "
    "hardly a choice. The correlation, if it was logged, is the mean cosine between the gradients of successive steps: "
    "near 1 they point the same way, near 0 they have little in common, below 0 they go back and forth.",
    "loss": "Lines: the training loss as logged. Points: evaluation.",
    "gap_share": "How often each candidate was applied, over all parameters.",
    "gap_layers": "Each row is a parameter, in the order of the model; the colour is the candidate that it used.",
    "gap_margins": "The score of the applied candidate against the best of the others, over all parameters: near 0 "
    "the candidates point the same way and the choice hardly matters, near 1 the others would have gone against the "
    "gradient. Below 0 a moving average (J_ema) kept a candidate that was not this step's best.",
}
OF_A_MIX = {
    "gap_dominance": "The candidate that had the largest weight in each stretch of steps, and its mean weight: near 1 "
    "it was hardly a mix." + CAPTIONS["gap_dominance"].partition("hardly a choice.")[2],
    "gap_share": "The mean weight of each candidate, over all parameters.",
    "gap_layers": "Each row is a parameter, in the order of the model; the colour is the mean of its candidates, by "
    "their weights, or the largest weight if the candidates have no values.",
}
"""The captions that are others for a mix."""
TITLES = {
    "gap_dominance": "Did choosing matter here?",
    "loss": "Loss",
    "gap_share": "Which candidate was applied",
    "gap_layers": "Parameter by parameter",
    "gap_margins": "How clearly it won",
}


def plot_run(
    run: str | Path | Run, out_dir: str | Path | None = None, formats: Collection[str] = FORMATS
) -> list[Path]:
    """Draw a run: ``gap_dominance``, ``gap_share``, ``gap_layers``, ``gap_margins``, and ``gap_report.html`` with all.

    Args:
        run: a Trainer's ``output_dir``, the choices file itself, or what ``read_run`` returned.
        out_dir: the directory for the files; by default that of the choices file.
        formats: any of ``png``, ``svg``, ``html``.

    Returns:
        The paths of the files.

    Raises:
        FileNotFoundError: there is no choices file.
        ValueError: a file can't be read or holds no steps, or a format is unknown.
    """
    check_formats(formats)
    run = read_run(run)
    choices = choices_of(run)
    out = Path(out_dir) if out_dir is not None else run.directory
    drawn = figures(choices)
    paths = save({"gap_dominance": dominance_figure(run, verdict(choices)), **drawn}, out, formats)
    if "html" in formats:
        loss = loss_figure([run])
        # on the page, the sentence below the first picture stands among the facts
        shown = {"gap_dominance": dominance_figure(run), **({"loss": loss} if loss else {}), **drawn}
        page = render(f"GAP in {run.name}", facts(run), pictures(shown, choices), [kinds_table(choices)])
        paths.append(write_text(out / "gap_report.html", page))
    return paths


def compare_runs(
    runs: Sequence[str | Path | Run],
    out_dir: str | Path,
    formats: Collection[str] = FORMATS,
    findings: Findings | None = None,
) -> list[Path]:
    """Draw runs side by side: ``gap_compare_loss``, ``gap_compare_choices`` and ``gap_compare.html``.

    Args:
        runs: Trainers' ``output_dir``s, or what ``read_runs`` returned; runs without a gap optimizer are welcome.
        out_dir: the directory for the files.
        formats: any of ``png``, ``svg``, ``html``.
        findings: more to say about them, such as a sweep's conclusion.

    Returns:
        The paths of the files.

    Raises:
        FileNotFoundError: a directory holds no run.
        ValueError: a file can't be read, or a format is unknown.
    """
    check_formats(formats)
    found = read_runs(runs)
    findings = findings or Findings([], {}, [])
    drawn = {"gap_compare_loss": loss_figure(found), "gap_compare_choices": compare.choices_figure(found)}
    shown = {name: figure for name, figure in drawn.items() if figure is not None}
    out = Path(out_dir)
    paths = save({**{name: picture.figure for name, picture in findings.pictures.items()}, **shown}, out, formats)
    if "html" in formats:
        titles = {"gap_compare_loss": "Loss", "gap_compare_choices": "What GAP applied"}
        captions = {"gap_compare_loss": CAPTIONS["loss"], "gap_compare_choices": "The mean over all parameters."}
        pages = [Picture(titles[name], figure, captions[name]) for name, figure in shown.items()]
        page = render(
            "Runs compared",
            [("runs", str(len(found))), *findings.facts],
            [*findings.pictures.values(), *pages],
            [*findings.tables, Table("Numbers", *compare.table(found))],
        )
        paths.append(write_text(out / "gap_compare.html", page))
    return paths


def check_formats(formats: Collection[str]) -> None:
    """Raise ValueError if a format is unknown."""
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"{name!r} is not a format; expected one of {', '.join(FORMATS)}")


def save(drawn: Mapping[str, Figure], out: Path, formats: Collection[str]) -> list[Path]:
    """Write the figures as ``out/NAME.png`` and ``.svg``, if these are among ``formats``."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in drawn.items():
        if "png" in formats:
            paths.append(out / f"{name}.png")
            figure.savefig(paths[-1], dpi=DPI)
        if "svg" in formats:
            paths.append(out / f"{name}.svg")
            paths[-1].write_bytes(svg(figure))
    return paths


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` to a file, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def pictures(drawn: Mapping[str, Figure], choices: Choices) -> list[Picture]:
    """The figures of a run, with what the page says about them."""
    captions, titles = CAPTIONS, TITLES
    if choices.weights is not None:
        captions, titles = CAPTIONS | OF_A_MIX, TITLES | {"gap_share": "How much of each candidate was applied"}
    return [Picture(titles[name], figure, captions[name]) for name, figure in drawn.items()]


def facts(run: Run) -> list[tuple[str, str]]:
    """The facts at the top of the page, as (name, value) pairs."""
    choices = choices_of(run)
    found = [
        ("did choosing matter?", verdict(choices)),
        ("type", choices.type),
        (f"candidates ({choices.candidate})", ", ".join(candidate.label for candidate in all_candidates(choices))),
        ("steps", f"{choices.steps[0]} to {choices.steps[-1]}"),
    ]
    if choices.per_parameter:
        found.append(("parameters", str(len(choices.parameters))))
    for key, name in (("loss", "training loss"), ("eval_loss", "evaluation loss")):
        values = run.curve(key)[1]
        if values:
            found.append((name, f"{values[0]:.4g} → {values[-1]:.4g}" if len(values) > 1 else f"{values[0]:.4g}"))
    correlations = run.curve("gap/correlation")[1]
    if correlations:
        found.append(("correlation of successive gradients", f"{statistics.median(correlations):.2f}"))
    if choices.damaged:
        found.append(("lines that can't be read", str(len(choices.damaged))))
    return found


def kinds_table(choices: Choices) -> Table:
    """The page's table of what was applied to each kind of parameter; what is not known has no column."""
    found = summarise(choices)
    with_mean = not all(math.isnan(row.mean) for row in found)
    with_margin = not all(math.isnan(row.margin) for row in found)
    names = display_names(choices, all_candidates(choices))
    head = ["", "parameters", *names, *(["mean"] if with_mean else []), "changed"]
    head += [*(["median margin"] if with_margin else []), "soft resets"]
    rows = [
        [
            row.name,
            str(row.parameters) if choices.per_parameter else "",
            *(f"{share:.1%}" for share in row.shares),
            *([f"{row.mean:.4g}"] if with_mean else []),
            number(row.changed, ".1%"),
            *([number(row.margin, ".2f")] if with_margin else []),
            str(row.resets),
        ]
        for row in found
    ]
    if choices.weights is None:
        caption = "changed: the share of choices that differ from the step before."
    else:
        caption = "Of each candidate, its mean weight. changed: how often another had the largest than a step before."
    return Table("By kind of parameter", head, rows, caption + " margin: see the picture above." * with_margin)


def number(value: float, form: str) -> str:
    """Write a number as text; NaN becomes an empty text."""
    return "" if math.isnan(value) else format(value, form)
