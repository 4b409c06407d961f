"""Run the checks and print what came of them: python -m tests.contract [--write] [arguments for pytest].

``--write`` puts the tables into the documentation, if nothing failed.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .refusals import refusal
from .table import by_check, by_concern, refused, write


class Outcomes:
    """A pytest plugin that keeps what came of each check on each variant: the worst of its cases."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], str] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Any:
        report = yield
        given = getattr(item, "callspec", None)
        if given is None or "variant" not in given.params or (report.passed and report.when != "call"):
            return report
        variant, name = given.params["variant"], item.originalname.removeprefix("test_")
        kind = "refused" if report.passed and refusal(name, variant) else report.outcome
        if self.found.get((name, variant.name)) != "failed":
            self.found[name, variant.name] = kind
        return report


def main(arguments: list[str]) -> int:
    """Run the checks, print the tables, and return pytest's exit status."""
    outcomes, writes = Outcomes(), "--write" in arguments
    arguments = [argument for argument in arguments if argument != "--write"]
    if writes:
        arguments += ["--deselect", "tests/contract/test_table.py::test_the_page_holds_the_tables"]
    status = pytest.main([str(Path(__file__).parent), "-q", "-p", "no:cacheprovider", *arguments], plugins=[outcomes])
    counts = Counter(outcomes.found.values())
    print(f"\n{by_check(outcomes.found)}\n{refused()}\n{by_concern(outcomes.found)}")
    print(", ".join(f"{counts[kind]} {kind}" for kind in ("passed", "refused", "failed", "skipped")))
    if writes and not status:
        write(outcomes.found)
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
