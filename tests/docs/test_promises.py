"""Every test that docs/promises.md names exists."""

import ast
import re
from pathlib import Path

from ..tiny import ROOT

PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")


def functions(path: Path) -> set[str]:
    """The names of the tests in a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_tests_it_names_are_there():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 20
    for file, function in named:
        assert (ROOT / file).is_file(), file
        assert not function or function in functions(ROOT / file), f"{file}::{function}"


def test_every_row_names_one():
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith(("| what goes wrong", "|--"))
    ]
    assert len(rows) > 20
    assert [row for row in rows if "`tests/" not in row] == []
