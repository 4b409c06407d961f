"""The tables that ``gap-hf bench`` prints."""

from itertools import groupby

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from .contenders import BASELINE, TYPES
from .result import Result, Row

WIDTH = 100
"""The width of the tables in characters, if the output is not a terminal."""


NOISY = 1.5
"""The ratio between the quartiles of the baseline's times from which on a warning is due."""


def show(results: list[Result], console: Console | None = None) -> None:
    """Print the tables of ``results``."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDTH, highlight=False)
    console.print(Text(heading(results[0].machine)))
    for question, group in groupby(results, lambda result: result.question):
        for table in [growth(list(group))] if question else map(comparison, group):
            console.print()
            console.print(table)
    if not results[0].question:
        console.print()
        console.print(Text(legend(results[0].device)), soft_wrap=False)


def heading(machine: dict[str, str]) -> str:
    """A line that says where and with what the result was measured."""
    gpu = [machine["gpu"]] if "gpu" in machine else []
    versions = [f"{name} {machine[name]}" for name in ("torch", "gap_hf")]
    return ", ".join([*gpu, machine["cpu"], f"{machine['threads']} threads", *versions, machine["date"]])


def comparison(result: Result) -> RenderableType:
    """The table of the contenders on one workload, with notes below it."""
    on_gpu = result.device == "cuda"
    title = (
        f"{result.workload}: {result.about}; {result.tensors:,} tensors, {result.elements:,} elements, "
        f"{result.dtype}, K={result.candidates}"
    )
    table = new_table()
    table.add_column("optimizer")
    heads = (
        "ms",
        "ratio",
        "quartiles",
        "floor",
        "state",
        "launches" if on_gpu else "operations",
        "syncs" if on_gpu else "reads",
    )
    for head in (*heads, "scratch"):
        table.add_column(head, justify="right")
    for row in result.rows:
        table.add_row(*cells(row, result, on_gpu), style="bold" if row.name == BASELINE else "")
    return Group(Text(title, style="bold"), table, Text(foot(result)))


def new_table() -> Table:
    """A table whose columns are separated by blanks."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def cells(row: Row, result: Result, on_gpu: bool) -> list[str]:
    """The cells of one contender's line."""
    counts = row.counts
    names = ("launches", "waits") if on_gpu else ("operations", "reads")
    return [
        row.name,
        f"{row.milliseconds:,.2f}",
        f"{row.ratio:.2f}",
        spread(row),
        "-" if row.moved is None else f"{row.moved / result.bytes_moved:.2f}",
        f"{row.state_bytes / result.elements:.2f}",
        *[whole(counts.get(name)) for name in names],
        megabytes(counts.get("scratch")),
    ]


def spread(row: Row) -> str:
    """The quartiles of a row's ratios, as text."""
    return "-".join(f"{quartile:.2f}" for quartile in row.quartiles)


def whole(number: int | None) -> str:
    """A count as text, or a dash for None."""
    return "-" if number is None else f"{number:,}"


def megabytes(nbytes: int | None) -> str:
    """A number of bytes in megabytes as text, or a dash for None."""
    return "-" if nbytes is None else f"{nbytes / 1e6:,.1f}"


def foot(result: Result) -> str:
    """The lines below a table: what the baseline achieves, how many samples there are, which contenders are absent."""
    base = result.baseline
    samples = f"{result.processes} processes" if result.processes > 1 else f"{len(result.rows[-1].seconds)} rounds"
    lines = [
        f"{BASELINE}: {base.milliseconds:,.2f} ms for {result.bytes_moved / result.elements:.0f} bytes per parameter = "
        f"{result.baseline_rate / 1e9:.1f} GB/s; torch's copy in the same run: {result.copy_rate / 1e9:.1f} GB/s "
        f"({samples})",
        *noise(base),
        *absences(result.absent),
    ]
    return "\n".join(lines)


def noise(baseline: Row) -> list[str]:
    """A warning if the baseline's own times vary too much for ratios to mean anything."""
    low, high = baseline.quartiles
    if high < NOISY * low:
        return []
    return [f"NOISY: {BASELINE}'s own times differ by {high / low:.1f}x between quartiles; is something else running?"]


def absences(absent: dict[str, str]) -> list[str]:
    """A line for each reason why contenders are absent."""
    by_reason: dict[str, list[str]] = {}
    for name, why in absent.items():
        by_reason.setdefault(why, []).append(name)
    return [f"{', '.join(names)}: {why}" for why, names in by_reason.items()]


def legend(device: str) -> str:
    """An explanation of the columns."""
    on_gpu = {
        "launches": "calls in a step that launch a kernel on the GPU, or a graph of them",
        "syncs": "calls in a step that wait for the GPU",
    }
    on_cpu = {
        "operations": "torch operators called in a step; compiled code that is not torch's is not counted",
        "reads": "values that Python asks for in a step, by .item() and the like; it waits for those on a GPU",
    }
    meanings = {
        "ratio": f"of a step's time to {BASELINE}'s in the same round, median; {BASELINE}'s own is to its median",
        "quartiles": "of these ratios",
        "floor": "the ratio of the bytes that both must move",
        "state": "bytes of optimizer state per parameter",
        **(on_gpu if device == "cuda" else on_cpu),
        "scratch": "MB of tensors that a step makes and frees, at the peak",
        "-switch, -each": f"type='{TYPES['switch']}' and type='{TYPES['each']}'",
        "before-": "of the version in the directory --before",
        "gap-mix, -score, -each": "type='mix', constant weights, by score, and by score for each parameter",
        "gap-qhm": "the mix of the gradient and beta1 = 0.9 of optim='gap_adamw_mix'; -score, -each: by score",
    }
    return "\n".join(f"{name}: {meaning}" for name, meaning in meanings.items())


def growth(results: list[Result]) -> RenderableType:
    """The table of a growth measurement: how the ratios depend on one number."""
    names = list(dict.fromkeys(row.name for result in results for row in result.rows if row.name != BASELINE))
    table = new_table()
    table.add_column("")
    for head in (f"{BASELINE} ms", *names):
        table.add_column(head, justify="right")
    for result in results:
        rows = {row.name: row for row in result.rows}
        ratios = [f"{rows[name].ratio:.2f} ({spread(rows[name])})" if name in rows else "-" for name in names]
        table.add_row(result.answer_to, f"{result.baseline.milliseconds:,.3f}", *ratios)
    reasons = {name: why for result in results for name, why in result.absent.items()}
    noisiest = max((result.baseline for result in results), key=lambda row: row.quartiles[1] / row.quartiles[0])
    title = f"ratio by number of {results[0].question}; {results[0].dtype}"
    return Group(Text(title, style="bold"), table, *map(Text, [*noise(noisiest), *absences(reasons)]))
