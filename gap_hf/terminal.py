"""What the ``gap-hf`` commands print, and how they fail."""

from collections.abc import Iterator
from contextlib import contextmanager

import rich.box
import rich.console
import rich.progress
import rich.table
import typer
from rich.markup import escape


@contextmanager
def failing_cleanly(*mendable: type[Exception]) -> Iterator[None]:
    """Turn an error that the user can fix into one line and exit status 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "jinja2", "scipy"):
            raise
        fail(f"{error.name} is not installed; pictures and tables of runs need it: pip install matplotlib jinja2 scipy")
    except mendable as error:
        fail(str(error))


def show_table(head: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for i, title in enumerate(head):
        table.add_column(title, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    rich.console.Console().print(table)


def fail(message: str) -> None:
    """Print one line and exit with status 1."""
    typer.echo(f"gap-hf: {message}", err=True)
    raise typer.Exit(1)
