"""The files of ``gap-hf plot`` and ``gap-hf compare``: pictures as PNG and SVG, and a page that holds them all."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..choices import Choices
from . import compare
from .candidates import all_candidates, display_names
from .loss import loss_figure
from .page import DPI, Findings, Picture, Table, render, svg
from .plot import figures
from .run import Run, choices_of, read_run, read_runs
from .summary import summarise

FORMATS = ("png", "svg", "html")

CAPTIONS = {
    "loss": "Lines: the training loss as logged. Points: evaluation.",
    "gap_share": "How often each candidate was applied, over all parameters.",
    "gap_layers": "Each row is a parameter, in the order of the model; the colour is the candidate that it used.",
    "gap_margins": "The score of the applied candidate against the best of the others, over all parameters: near 0 "
    "the candidates point the same way and the choice hardly matters, near 1 the others would have gone against the "
    "gradient. Below 0 a moving average (J_ema) kept a candidate that was not this step's best.",
}
TITLES = {
    "loss": "Loss",
    "gap_share": "Which candidate was applied",
    "gap_layers": "Parameter by parameter",
    "gap_margins": "How clearly it won",
}


def plot_run(
    run: str | Path | Run, out_dir: str | Path | None = None, formats: Collection[str] = FORMATS
) -> list[Path]:
    """Draw a run: ``gap_share``, ``gap_layers`` and ``gap_margins``, and ``gap_report.html`` with these and the loss.

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
    paths = save(drawn, out, formats)
    if "html" in formats:
        loss = loss_figure([run])
        shown = {**({"loss": loss} if loss else {}), **drawn}
        page = render(f"GAP in {run.name}", facts(run), pictures(shown), [kinds_table(choices)])
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


def pictures(drawn: Mapping[str, Figure]) -> list[Picture]:
    """The figures of a run, with what the page says about them."""
    return [Picture(TITLES[name], figure, CAPTIONS[name]) for name, figure in drawn.items()]


def facts(run: Run) -> list[tuple[str, str]]:
    """The facts at the top of the page, as (name, value) pairs."""
    choices = choices_of(run)
    found = [
        ("type", choices.type),
        (f"candidates ({choices.candidate})", ", ".join(candidate.label for candidate in all_candidates(choices))),
        ("steps", f"{choices.steps[0]} to {choices.steps[-1]}"),
    ]
    if choices.type != "switch":
        found.append(("parameters", str(len(choices.parameters))))
    for key, name in (("loss", "training loss"), ("eval_loss", "evaluation loss")):
        values = run.curve(key)[1]
        if values:
            found.append((name, f"{values[0]:.4g} → {values[-1]:.4g}" if len(values) > 1 else f"{values[0]:.4g}"))
    if choices.damaged:
        found.append(("lines that can't be read", str(len(choices.damaged))))
    return found


def kinds_table(choices: Choices) -> Table:
    """The page's table of what each kind of parameter chose."""
    found = summarise(choices)
    with_mean = not all(math.isnan(row.mean) for row in found)
    shares = display_names(choices, all_candidates(choices))
    head = ["", "parameters", *shares, *(["mean"] if with_mean else []), "changed", "median margin", "soft resets"]
    rows = [
        [
            row.name,
            "" if choices.type == "switch" else str(row.parameters),
            *(f"{share:.1%}" for share in row.shares),
            *([f"{row.mean:.4g}"] if with_mean else []),
            number(row.changed, ".1%"),
            number(row.margin, ".2f"),
            str(row.resets),
        ]
        for row in found
    ]
    caption = "changed: the share of choices that differ from the step before. margin: see the picture above."
    return Table("By kind of parameter", head, rows, caption)


def number(value: float, form: str) -> str:
    """Write a number as text; NaN becomes an empty text."""
    return "" if math.isnan(value) else format(value, form)
