"""The ``gap-hf`` command."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .trainer.record import read_choices

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Look at what the GAP optimizers did, and at what they cost."""


@app.command()
def plot(
    run_dir: Annotated[Path, typer.Argument(help="A Trainer's output_dir, or a gap_choices.jsonl file.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the pictures go.", show_default="next to the choices file")
    ] = None,
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


@app.command()
def bench(
    workload: Annotated[
        list[str], typer.Option(help="vit, llama (LoRA fine-tunes) or 1b (a full one); several times for several.")
    ] = ["vit", "llama"],  # noqa: B006  # typer shows it, and copies it
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of parameters and gradients: float32, bfloat16 or float16.")] = "float32",
    candidates: Annotated[int, typer.Option(help="K, the number of GAP's candidates.")] = 2,
    rounds: Annotated[
        int | None,
        typer.Option(help="How often each contender is timed.", show_default="5 to 50, for about a minute"),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="A contender's name or its beginning, like gap-fused; several times for several."),
    ] = None,
    growth: Annotated[
        bool,
        typer.Option("--growth", help="Show how the ratio grows with K, with tensors and with their size, instead."),
    ] = False,
    repeats: Annotated[int, typer.Option(help="Measure in so many fresh processes and print medians over them.")] = 1,
    cold: Annotated[
        bool, typer.Option("--cold/--warm", help="Empty the caches before every step, as a backward pass does, or not.")
    ] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything that was measured there, too.")
    ] = None,
) -> None:
    """Measure what a step costs, beside torch's AdamW and others.

    Every contender steps the same random tensors in turn, round after round,
    in one process. The table has its step time as a ratio to torch's fused
    AdamW, the bytes of its state, what it launches and waits for, and the
    memory that it takes meanwhile.
    """
    from .bench import BenchError, Options, run
    from .bench.progress import Bar
    from .bench.table import show

    options = Options(
        workloads=tuple(workload),
        device=device,
        dtype=dtype,
        candidates=candidates,
        rounds=rounds,
        only=tuple(only or ()),
        growth=growth,
        repeats=repeats,
        cold=cold,
    )
    try:
        if json_file is not None:
            json_file.open("a").close()  # better found out now that it can't be written
        with Bar() as bar:
            results = run(options, bar)
        show(results)
        if json_file is not None:
            json_file.write_text(json.dumps([result.to_json() for result in results], indent=1) + "\n")
    except (OSError, BenchError) as error:
        fail(str(error))


def fail(message: str) -> None:
    """Print one line and exit with status 1."""
    typer.echo(f"gap-hf: {message}", err=True)
    raise typer.Exit(1)
