"""The ``gap-hf`` command."""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import rich.console
import rich.progress
import rich.table
import typer
from rich.markup import escape

from . import __version__
from .checkpoint.commands import commands as checkpoint_commands
from .terminal import failing_cleanly, show_table

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(checkpoint_commands, name="checkpoint")


def show_version(asked: bool) -> None:
    """Print the version and exit, if ``--version`` was given."""
    if asked:
        typer.echo(f"gap-hf {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Show what the GAP optimizers did, and what they cost."""


Formats = Annotated[
    list[str] | None,
    typer.Option("--format", help="png, svg or html; several times for several.", show_default="all three"),
]


@app.command()
def plot(
    run_dir: Annotated[Path, typer.Argument(help="A Trainer's output_dir, or a gap_choices.jsonl file.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the files go.", show_default="next to the choices file")
    ] = None,
    formats: Formats = None,
) -> None:
    """Draw what GAP chose in a run, and say whether choosing mattered.

    Plots how nearly one candidate made up all, the candidates' shares over
    time, a layers x steps map with the soft resets, and how clearly the choices
    were made. Also writes a page with all of these, the losses and a table by
    kind of parameter.
    """
    with failing_cleanly(OSError, ValueError):
        from .report.run import choices_of, read_run
        from .report.summary import shares
        from .report.verdict import verdict
        from .report.write import FORMATS, plot_run

        run = read_run(run_dir)
        paths = plot_run(run, out, formats or FORMATS)
        choices = choices_of(run)
    what = "of all choices" if choices.weights is None else "of the weight"
    for name, share in shares(choices).items():
        typer.echo(f"{name}: {share:.1%} {what}")
    typer.echo(verdict(choices))
    for path in paths:
        typer.echo(path)


@app.command()
def compare(
    run_dirs: Annotated[list[Path], typer.Argument(help="Trainers' output_dirs; with or without a gap optimizer.")],
    out: Annotated[
        Path | None, typer.Option(help="Where pictures and a page go.", show_default="none are written")
    ] = None,
    formats: Formats = None,
) -> None:
    """Put runs side by side: their losses, and what GAP applied.

    Prints a table. With --out it also draws the losses and the applied
    candidates of all runs together, as pictures and as a page.
    """
    with failing_cleanly(OSError, ValueError):
        from .report.compare import table
        from .report.run import read_runs
        from .report.write import FORMATS, compare_runs

        if formats and out is None:
            raise ValueError("--format says what goes into --out; give that, too")
        runs = read_runs(run_dirs)
        paths = compare_runs(runs, out, formats or FORMATS) if out is not None else []
        show_table(*table(runs))
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
    before: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A checkout of another version, to be measured beside this one.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything that was measured there, too.")
    ] = None,
) -> None:
    """Measure what a step costs, compared with torch's AdamW and others.

    Every contender steps the same random tensors in turn, round after round,
    in one process. The table shows each one's step time as a ratio to torch's
    fused AdamW, the bytes of its state, what it launches and waits for, and
    the memory that it takes during the step.
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
        before=None if before is None else str(before),
    )
    with failing_cleanly(OSError, BenchError):
        if json_file is not None:
            json_file.open("a").close()  # better found out now that it can't be written
        with Bar() as bar:
            results = run(options, bar)
        show(results)
        if json_file is not None:
            json_file.write_text(json.dumps([result.to_json() for result in results], indent=1) + "\n")


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Option(help="An accelerate config file: what it will do with a gap optimizer.")
    ] = None,
    optim: Annotated[str | None, typer.Option(help="An optim= name: what its optimizer will be given.")] = None,
    optim_args: Annotated[
        str | None, typer.Option("--optim_args", "--optim-args", help="optim_args for it.", show_default="none")
    ] = None,
) -> None:
    """Say what works on this machine.

    Shows versions, kernels (the CPU kernel is built if it never was), and the
    layouts that can be started here; with --config, whether a run with that
    accelerate config will be exact, or refused and why; with --optim, every
    option of that optimizer, or what is wrong with --optim-args, and for
    gap_over the optimizers that can be its candidates. The exit
    status is 1 if something will be refused, or if a version is not one that
    gap_hf supports.
    """
    from .doctor import candidates, hosts, machine
    from .doctor import config as configs
    from .doctor import options as option
    from .doctor.finding import State

    if optim_args is not None and optim is None:
        optim = "gap_adamw"
    with failing_cleanly(OSError, ValueError):
        launch = configs.read(config) if config is not None else None
        judged = configs.judge(launch) if launch is not None else []
        cut = launch is not None and configs.cuts(launch)
        given = option.judge(optim, optim_args, cut) if optim is not None else []
        sections = {
            "versions": machine.versions(),
            "kernels": [*machine.devices(), *machine.kernels()],
            "layouts here": machine.layouts(),
            "frameworks": hosts.hosts(),
            str(config): judged,
            str(optim): given,
            "candidates that were tried": candidates.known() if optim == "gap_over" else [],
        }
    colors = {State.GOOD: "green", State.NOTE: "cyan", State.BAD: "red", State.MISSING: "yellow"}
    console = rich.console.Console()
    for title, findings in sections.items():
        if not findings:
            continue
        table = rich.table.Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
        for finding in findings:
            color = colors[finding.state]
            table.add_row(escape(finding.what), f"[{color}]{finding.state.value}[/]", escape(finding.text))
        console.print(table, "")
    if any(finding.state is State.BAD for findings in sections.values() for finding in findings):
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def sweep(
    context: typer.Context,
    script: Annotated[Path, typer.Argument(help="A recipe, or any script with TrainingArguments' flags.")],
    gap: Annotated[str, typer.Option(help="The gap optimizer.")] = "gap_adamw",
    gap_args: Annotated[str | None, typer.Option(help="optim_args for it.")] = None,
    value: Annotated[
        list[float] | None,
        typer.Option(help="A fixed beta1 or momentum; several times for several.", show_default="a usual grid"),
    ] = None,
    seed: Annotated[list[int], typer.Option(help="Several times for several.")] = [42],  # noqa: B006
    lr: Annotated[
        list[float] | None,
        typer.Option(help="A learning rate for all of them; several times for several.", show_default="the script's"),
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Run what tells whether it is the choosing that helps.")
    ] = True,
    launch: Annotated[
        Path | None, typer.Option(help="An accelerate config file to launch the runs with.", show_default="one process")
    ] = None,
    out: Annotated[Path, typer.Option(help="Holds a directory per run, and the comparison.")] = Path("runs/sweep"),
) -> None:
    """Run fixed beta1 (or momentum) values beside GAP: did choosing help?

    Prints a table and one sentence of conclusion. Controls take part: GAP
    with its candidate drawn at random, and with always the first-listed one.

    All runs use the same script with the same flags (flags that are not the
    sweep's own go to the script); a fixed value runs torch's own optimizer.
    Runs that an earlier call has finished are kept: the same command continues
    a sweep that was stopped.

        gap-hf sweep train.py --seed 1 --seed 2 --seed 3 --max_steps 200
    """
    with failing_cleanly():  # what the pictures need is missed now, and not when everything has been trained
        from . import sweep as sweeps
        from .report.run import read_runs
        from .report.write import compare_runs

    with failing_cleanly(OSError, ValueError, sweeps.SweepError):
        members = sweeps.plan(script, context.args, gap, gap_args, value, seed, out, launch, lr, controls)
        bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            console=rich.console.Console(stderr=True),
        )
        with bar:
            task = bar.add_task("", total=len(members))

            def ended(member: sweeps.Member, ran: bool) -> None:
                bar.console.print(f"{member.directory}: {'done' if ran else 'kept from an earlier sweep'}")
                bar.advance(task)

            sweeps.run(members, lambda member: bar.update(task, description=str(member.directory)), ended)
        runs = read_runs([member.directory for member in members])
        outcome = sweeps.Outcome(members, runs)
        show_table(*sweeps.table(outcome))
        for line in (sweeps.edge_note(outcome), sweeps.conclude(outcome)):
            if line is not None:
                typer.echo(line + "\n")
        paths = compare_runs(outcome.best_runs(), out, findings=sweeps.findings(outcome))
    for path in paths:
        typer.echo(path)


class Switch(str, Enum):
    """What ``gap-hf autoload`` is told."""

    ON = "on"
    OFF = "off"
    STATUS = "status"


@app.command()
def autoload(switch: Annotated[Switch, typer.Argument(help="on, off or status.")]) -> None:
    """Have every Python of this environment know the gap optimizers, or not.

    When it is on, trl sft, llamafactory-cli train and other commands that start
    training in processes of their own take --optim gap_adamw as they are. The
    package is imported where Trainer's arguments are, so that other programs
    start as fast as before. It is off unless you turn it on.
    """
    from .integrations import autoload as loader

    with failing_cleanly(OSError):
        if switch is Switch.ON:
            typer.echo(f"on: {loader.turn_on()}")
        elif switch is Switch.OFF:
            typer.echo(f"off: there is no {loader.turn_off()}")
        else:
            typer.echo(f"on: {loader.place()}" if loader.is_on() else f"off: there is no {loader.place()}")
