"""The commands ``gap-hf checkpoint show`` and ``gap-hf checkpoint convert``."""

from pathlib import Path
from typing import Annotated

import rich.console
import rich.progress
import typer

from ..terminal import failing_cleanly, show_table

commands = typer.Typer(no_args_is_help=True, help="Look into checkpoints, and convert them.")

Where = Annotated[
    Path,
    typer.Argument(
        help="A checkpoint of Trainer, Accelerate, DeepSpeed or torch, an output_dir with some, or an optimizer's file."
    ),
]
Choices = Annotated[
    Path | None,
    typer.Option(
        help="The run's gap_choices.jsonl, which has the names that optimizer.pt lacks.",
        show_default="the one beside the checkpoint",
    ),
]


@commands.command()
def show(checkpoint: Where, choices: Choices = None) -> None:
    """Say what a checkpoint holds of a gap optimizer.

    Prints a line per parameter group: its candidates, its learning rate, the
    state and its size, and which candidates were applied last. Of an output_dir
    it shows the newest checkpoint.
    """
    with failing_cleanly(OSError, ValueError):
        from .find import read
        from .show import heading, table

        stored = read(checkpoint, choices)
        typer.echo(heading(stored))
        show_table(*table(stored))


@commands.command()
def convert(
    checkpoint: Where,
    out: Annotated[
        Path | None, typer.Option(help="Where the portable state goes.", show_default="gap_portable in the checkpoint")
    ] = None,
    choices: Choices = None,
) -> None:
    """Make a portable state of a checkpoint, from which any backend goes on.

    In Trainer, resume_from_checkpoint then takes it on another backend or
    another number of processes. It is what optim_args="portable=true" writes
    while training. The checkpoint stays as it is.
    """
    with failing_cleanly(OSError, TypeError, ValueError):
        from ..portable import FOLDER
        from .convert import convert as write
        from .find import newest, read

        stored = read(checkpoint, choices)
        folder = out or (newest(checkpoint) if checkpoint.is_dir() else checkpoint.parent) / FOLDER
        bar = rich.progress.Progress(
            *rich.progress.Progress.get_default_columns(), console=rich.console.Console(stderr=True)
        )
        with bar:
            task = bar.add_task("parameters", total=2 * len(stored.names()))
            write(stored, folder, lambda name: bar.advance(task))
    typer.echo(folder)
