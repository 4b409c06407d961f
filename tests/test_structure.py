"""The house stays in order: no import points upward or in a circle, and no file is too long to read."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gap_hf"

FLOORS = [
    ["candidate", "sharding"],
    ["optim"],
    ["choices"],
    ["weights"],
    ["consolidated"],
    ["portable"],
    ["terminal"],
    ["report", "checkpoint"],
    ["trainer"],
    ["doctor", "bench", "sweep", "integrations"],
    ["cli", "__main__"],
]
"""The rooms, from the ground up: a module imports only from its own room and from floors below."""

OPTIM = [
    ["arithmetic", "uploads", "reference", "packed"],
    ["work", "rules"],
    ["family", "choice"],
    ["options", "takeover", "over"],
    ["groups"],
    ["kernels"],
    ["state", "default", "decision", "scope", "reading"],
    ["codes"],
    ["loading", "step", "watched", "correlation", "conversion"],
    ["savable"],
    ["shell"],
    ["batch_size", "spectral"],
    ["find", "families"],
]
"""The same inside of ``gap_hf.optim``."""


def modules():
    """Every module of the package by its dotted name, without ``gap_hf`` in front, and its file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = modules()


def imported(name: str) -> tuple[set[str], set[str]]:
    """The package's modules that ``name`` imports: as it is loaded, and anywhere."""
    path = MODULES[name]
    here = [] if name == "__init__" else name.split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    outermost = {id(node) for node in ast.walk(tree)} - {
        id(inner)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(function)
    }
    loaded, anywhere = set(), set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            for target in (".".join([*base, alias.name]), ".".join(base)):
                if target in MODULES:
                    anywhere.add(target)
                    if id(node) in outermost:
                        loaded.add(target)
                    break
    return loaded - {name}, anywhere - {name}


def room(name: str, floors: list[list[str]], depth: int) -> int:
    """The floor of a module."""
    (found,) = [k for k, rooms in enumerate(floors) if name.split(".")[depth] in rooms]
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__init__"])
def test_imports_point_downward(name):
    for target in imported(name)[1] - {"__init__"}:
        assert room(target, FLOORS, 0) <= room(name, FLOORS, 0), f"gap_hf.{name} imports gap_hf.{target}"
        if name.startswith("optim.") and target.startswith("optim."):
            assert room(target, OPTIM, 1) <= room(name, OPTIM, 1), f"gap_hf.{name} imports gap_hf.{target}"


def test_no_circle():
    graph = {name: imported(name)[0] for name in MODULES if name != "__init__"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nobody_imports_a_family():
    """What serves all families knows none of them; their public classes are found (``optim/families/__init__.py``)."""
    allowed = ("optim", "optim.families", "trainer.presets")
    for name in MODULES:
        if name.startswith("optim.families.") or name in allowed:
            continue
        assert not [t for t in imported(name)[1] if t.startswith("optim.families.")], name


def test_no_type_checking_detour():
    assert not [name for name, path in MODULES.items() if "TYPE_CHECKING" in path.read_text(encoding="utf-8")]


def test_no_file_is_too_long():
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".c", ".h", ".jinja")]
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {path: n for path, n in lengths.items() if n > 400}
    assert lengths[Path("gap_hf/optim/shell.py")] < 200


def test_what_only_the_commands_need_is_imported_there():
    """A training run needs none of these, and does not wait for them."""
    for name, path in MODULES.items():
        if name.split(".")[0] in ("cli", "bench", "doctor", "terminal") or name == "checkpoint.commands":
            continue
        names = {
            alias.name.split(".")[0] if isinstance(node, ast.Import) else (node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not names & {"rich", "typer", "psutil"}, name
