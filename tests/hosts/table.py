"""The table of hosts in ``docs/hosts.md``, from what passed: python -m tests.hosts.table"""

import csv
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "docs" / "hosts.csv", ROOT / "docs" / "hosts.md"
BEGIN, END = "<!-- what ran: python -m tests.hosts -->\n", "<!-- end of the table -->"
COLUMNS = {"one": "one process", "ddp": "DDP", "fsdp2": "FSDP2", "zero2": "ZeRO 2", "zero3": "ZeRO 3"}


class Result(NamedTuple):
    """What happened to one host in one layout."""

    host: str
    version: str
    layout: str
    result: str
    versions: str


def read(path: Path = RESULTS) -> list[Result]:
    """Read what happened."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [Result(**row) for row in csv.DictReader(file)]


def record(result: Result) -> None:
    """Put a result in the place of an earlier one, and write the table."""
    found = [old for old in read() if (old.host, old.layout) != (result.host, result.layout)] + [result]
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Result._fields)
        writer.writerows(sorted(found, key=lambda one: (one.host, list(COLUMNS).index(one.layout))))
    text = PAGE.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(text[:begin] + "\n" + table(read()) + "\n" + text[end:])


def table(results: list[Result]) -> str:
    """The results as a table: a row per host, a column per layout."""
    rows = [["host", *COLUMNS.values(), "with"], ["---"] * (len(COLUMNS) + 2)]
    for host in dict.fromkeys(result.host for result in results):
        mine = {result.layout: result for result in results if result.host == host}
        first = next(iter(mine.values()))
        found = [mine[layout].result if layout in mine else "" for layout in COLUMNS]
        rows.append([f"{host} {first.version}", *found, first.versions])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    for kept in read():
        record(kept)
