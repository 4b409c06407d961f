"""The tables of docs/limits.md, made from what came of the checks."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from .checks import CHECKS, Check
from .refusals import REFUSALS, Refusal, refusal
from .variants import CONTROL, KERNELS, TYPES, VARIANTS

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
BEGIN, END = "<!-- the tables: python -m tests.contract --write -->\n", "<!-- end of the tables -->\n"

ROWS = (CONTROL, *TYPES)
Outcomes = Mapping[tuple[str, str], str]
"""By the names of check and variant: ``'passed'``, ``'refused'``, ``'failed'`` or ``'skipped'``."""


def expected() -> Outcomes:
    """Return the outcomes of the imported checks when nothing fails."""
    return {(c.name, v.name): "refused" if refusal(c.name, v) else "passed" for c in CHECKS for v in c.variants}


def cell(outcomes: Outcomes, checks: list[Check], row: str) -> str:
    """Count each outcome in ``row``."""
    counts = Counter(outcomes[c.name, v.name] for c in checks for v in c.variants if v.row == row)
    return ", ".join(f"{counts[kind]} {kind}" for kind in ("passed", "refused", "failed", "skipped") if counts[kind])


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def head() -> str:
    sizes = Counter(v.row for v in VARIANTS)
    names = ["torch's own" if row == CONTROL else f"`{row}`" for row in ROWS]
    titles = [f"{name} ({sizes[row]})" for name, row in zip(names, ROWS, strict=True)]
    return line(["checks of", "number", *titles]) + line(["---"] * (len(ROWS) + 2))


def by_concern(outcomes: Outcomes) -> str:
    """Write a line per concern, and one for all."""
    concerns = list(dict.fromkeys(c.concern for c in CHECKS))
    lines = [(concern.replace("_", " "), [c for c in CHECKS if c.concern == concern]) for concern in concerns]
    lines.append(("all", CHECKS))
    return head() + "".join(
        line([title, str(len(checks)), *(cell(outcomes, checks, row) for row in ROWS)]) for title, checks in lines
    )


def by_check(outcomes: Outcomes) -> str:
    """Write a line per check."""
    return head() + "".join(
        line([c.concern.replace("_", " "), c.name.replace("_", " "), *(cell(outcomes, [c], row) for row in ROWS)])
        for c in CHECKS
    )


def where(entry: Refusal) -> str:
    """Say which variants an entry is about: classes and kernels where it is not about all, and rows."""
    parts = []
    if len(entry.families) == 1:
        parts.append({"adam": "Adam, AdamW", "sgd": "SGD"}[entry.families[0]])
    if len(entry.kernels) < len(KERNELS):
        parts.append(", ".join(entry.kernels))
    names = {CONTROL: "torch's own"}
    parts.append("all of ours" if entry.rows == TYPES else ", ".join(names.get(row, f"`{row}`") for row in entry.rows))
    return "; ".join(parts)


def refused() -> str:
    """Write a line per refusal, with all the checks that meet it."""
    text = line(["check", "where", "error", "why"]) + line(["---"] * 4)
    checks: dict[tuple[str, str, str], list[str]] = {}
    for entry in REFUSALS:
        checks.setdefault((where(entry), entry.error.__name__, entry.reason), []).append(entry.check.replace("_", " "))
    return text + "".join(line([", ".join(names), *rest]) for rest, names in checks.items())


def section(outcomes: Outcomes) -> str:
    """Write the two tables of the page."""
    return f"{by_concern(outcomes)}\n{refused()}"


def write(outcomes: Outcomes) -> None:
    """Put the tables into the page."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{section(outcomes)}\n{END}{rest.split(END)[1]}")
