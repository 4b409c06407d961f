"""The picture of docs/architecture.md, from the package's own imports: python -m tests.docs.architecture"""

import json

from ..test_structure import FLOORS, MODULES, OPTIM, imported
from ..tiny import ROOT

PICTURE = ROOT / "docs" / "images" / "architecture.svg"
WORDS = {
    "candidate": "candidate",
    "sharding": "sharding\none file per backend",
    "optim": "optim\nthe algorithm",
    "choices": "choices\nrecorder, file, reader",
    "weights": "whole weights",
    "consolidated": "whole state",
    "portable": "files of it",
    "report": "report\nplots, comparisons",
    "trainer": "trainer\nnames, callback",
    "checkpoint": "checkpoint\na reader per format",
    "integrations": "integrations\na file per host",
    "terminal": "terminal",
    "doctor": "doctor",
    "bench": "bench",
    "sweep": "sweep",
    "cli": "cli",
    "__main__": "__main__",
    "arithmetic": "arithmetic\noperations, precision",
    "work": "work\ntensors of a step",
    "family": "family\nwhat a family is",
    "kernels": "kernels\nloop, foreach, fused",
    "state": "state",
    "scope": "scope\none for all, for each",
    "step": "step\nobserve … apply",
    "shell": "shell\ntorch.optim's contract",
    "families": "families\nadam, sgdm, …",
}
LEFT_OUT = {"uploads", "reference", "find", "takeover", "default", "rule", "reading"}
"""Small ones and helpers, for the picture's sake."""


def arrows(floors: list[list[str]], inside: str) -> dict[str, set[str]]:
    """Which rooms each room imports from; an import that others make superfluous to draw is left out."""
    found: dict[str, set[str]] = {name: set() for floor in floors for name in floor}
    depth = 1 if inside else 0
    for name in MODULES:
        parts = name.split(".")
        if name == "__init__" or (inside and (parts[0] != inside or len(parts) == 1)):
            continue
        for target in imported(name)[1] - {"__init__"}:
            there = target.split(".")
            if (inside and (there[0] != inside or len(there) == 1)) or there[depth] == parts[depth]:
                continue
            found[parts[depth]].add(there[depth])
    kept = {name for name in found if name not in LEFT_OUT or not inside}
    found = {name: targets & kept for name, targets in found.items() if name in kept}

    def reachable(name: str) -> set[str]:
        return found[name] | {far for near in found[name] for far in reachable(near)}

    return {
        name: {t for t in targets if not any(t in reachable(other) for other in targets - {t})}
        for name, targets in found.items()
    }


def drawn() -> dict[str, dict[str, list[str]]]:
    """What the picture shows."""
    both = {"gap_hf": arrows(FLOORS, ""), "gap_hf/optim": arrows(OPTIM, "optim")}
    return {title: {name: sorted(targets) for name, targets in rooms.items()} for title, rooms in both.items()}


def draw() -> None:
    """Draw it, with what it shows in its metadata."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    matplotlib.rcParams.update({"svg.hashsalt": "gap_hf", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure, axes = plt.subplots(1, 2, figsize=(12, 7))
    for ax, (title, rooms), floors in zip(axes, drawn().items(), (FLOORS, OPTIM), strict=True):
        levels = [kept for floor in floors if (kept := [name for name in floor if name in rooms])]
        places = {}
        for y, names in enumerate(levels):
            for k, name in enumerate(names):
                aside = 0.12 * (-1) ** y if len(names) == 1 else 0.0  # so that arrows don't run behind boxes
                places[name] = ((k + 0.5) / len(names) + aside, y)
        for name, targets in rooms.items():
            for target in targets:
                ax.annotate(
                    "",
                    xy=(places[target][0], places[target][1] + 0.24),
                    xytext=(places[name][0], places[name][1] - 0.24),
                    arrowprops={"arrowstyle": "->", "color": "#7a8a99", "lw": 1.1},
                )
        for name, (x, y) in places.items():
            box = {"boxstyle": "round,pad=0.4", "fc": "#eef3f8", "ec": "#30506e"}
            ax.text(x, y, WORDS.get(name, name), ha="center", va="center", fontsize=9, color="#10202e", bbox=box)
        ax.set(xlim=(0, 1), ylim=(-0.5, len(levels) - 0.5), title=title)
        ax.axis("off")
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None, "Creator": None, "Description": json.dumps(drawn())})


if __name__ == "__main__":
    draw()
