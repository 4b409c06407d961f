"""The ``gap-hf`` command."""

from pathlib import Path
from typing import Annotated

import typer

from .trainer.record import read_choices

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Look at what the GAP optimizers did."""


@app.command()
def plot(
    run_dir: Annotated[Path, typer.Argument(help="A Trainer's output_dir, or a gap_choices.jsonl file.")],
    out: Annotated[Path | None, typer.Option(help="Where the pictures go. [default: next to the choices file]")] = None,
) -> None:
    """Draw candidate share over time and a layers x steps heat map of the choices."""
    try:
        from .report.plot import plot_run, shares
    except ImportError as error:
        fail(f"plotting needs matplotlib ({error}); install it with: pip install 'gap_hf[plots]'")
    try:
        paths = plot_run(run_dir, out)
    except (OSError, ValueError) as error:
        fail(str(error))
    for name, share in shares(read_choices(run_dir)).items():
        typer.echo(f"{name}: {share:.1%} of all choices")
    for path in paths:
        typer.echo(path)


def fail(message: str) -> None:
    """Print one line and exit with status 1."""
    typer.echo(f"gap-hf: {message}", err=True)
    raise typer.Exit(1)
