"""The tables of docs/layouts.md, from what the tests run and what is refused: python -m tests.sharding.table"""

import re
from pathlib import Path

from gap_hf.sharding.backend import all_refusals

from . import layouts, zero
from .bag import CASES
from .run_checkpoints import LOADS, REFUSED, SAVES
from .run_layouts import cases

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "layouts.md"
BEGIN, END = "<!-- the table: python -m tests.sharding.table -->\n", "<!-- end of the table -->\n"
BEGIN_FAMILIES = "<!-- the families: python -m tests.sharding.table -->\n"
END_FAMILIES = "<!-- end of the families -->\n"
BEGIN_REFUSALS = "<!-- what is refused: python -m tests.sharding.table -->\n"
END_REFUSALS = "<!-- end of what is refused -->\n"

ROWS = {
    "one process": (["single"], "torch"),
    "DDP": (["ddp"], "torch"),
    "FSDP1, `use_orig_params=True`": (
        ["fsdp1", "fsdp1-grad-op", "fsdp1-no-shard", "fsdp1-on-4", "fsdp1-hybrid"],
        "torch",
    ),
    "FSDP2 (`fully_shard`)": (["fsdp2", "fsdp2-late-swap", "fsdp2-on-4"], "torch"),
    "HSDP (FSDP2 on a 2-D mesh)": (["hsdp"], "torch"),
    "tensor parallel": (["tensor-parallel"], "torch"),
    "FSDP2 x tensor parallel": (["fsdp2-tensor-parallel", "mixed-meshes"], "torch"),
    "ZeRO 0": (["zero0", "zero0-bf16"], "torch, deepspeed"),
    "ZeRO 1": (["zero1", "zero1-bf16", "zero1-bf16-fp32", "zero1-fp16"], "torch, deepspeed"),
    "ZeRO 2": (
        ["zero2", "zero2-round-robin", "zero2-accumulate", "zero2-clip", "zero2-bf16", "zero2-fp16"],
        "torch, deepspeed",
    ),
    "ZeRO 2, optimizer on the CPU": (["zero2-offload"], "torch, deepspeed"),
    "ZeRO 3": (
        ["zero3", "zero3-persistent", "zero3-sub-groups", "zero3-accumulate", "zero3-clip", "zero3-bf16", "zero3-fp16"],
        "torch, deepspeed",
    ),
    "ZeRO 3, optimizer (and parameters) on the CPU": (["zero3-offload", "zero3-offload-both"], "torch, deepspeed"),
}
"""What users call it -> the tested layouts, and the packages that it depends on."""

FAMILIES = {
    "Adam, AdamW": "adam",
    "SGDM": "sgdm",
    "Adams": "adams",
    "Adai, AdaiW, AdaiV2": "adai",
    "RFAdamW": "rf_adamw",
    "RFRMSprop": "rf_rmsprop",
    "IFShampoo": "if_shampoo",
    "GapOver": "over",
}
"""What users call them -> their names in the code."""

RESUMED_BY_TRAINER = {"single", "hsdp"}
"""Layouts that are resumed on as many processes in ``tests/trainer/test_resume.py`` and ``test_trainer.py`` only."""


def resume(names: list[str]) -> str:
    """Whether any of them is saved and loaded on as many processes."""
    same = any(n in SAVES[w] and LOADS.get(w, {}).get(n) == n for w in SAVES for n in names)
    return "bitwise" if same or set(names) & RESUMED_BY_TRAINER else ""


def reshard(names: list[str]) -> str:
    """The numbers of processes that they are loaded on, other than those that saved."""
    pairs = [(a, b) for a in sorted(SAVES, reverse=True) for b in sorted(LOADS, reverse=True) if a != b]
    ways = [f"{a} → {b}" for a, b in pairs if any(n in SAVES[a] and n in LOADS[b] for n in names)]
    if not ways and any(n in plan for plan in REFUSED.values() for n in names):
        return "refused by DeepSpeed"
    return ", ".join(ways)


def how(names: list[str]) -> str:
    worlds = {**layouts.LAYOUTS, **zero.LAYOUTS}
    return ", ".join(f"{name} ({worlds[name][0]})" for name in names)


def version(package: str) -> str:
    if package == "torch":  # which is installed before the others
        found = re.search(r"^TORCH\s*\?= torch==(\S+)", (ROOT / "Makefile").read_text(), re.M)
    else:
        found = re.search(rf"^{package}==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert found
    return f"{package} {found.group(1)}"


def table() -> str:
    lines = ["| layout | choices | resume | reshard | tested as (processes) | with |", "|---|---|---|---|---|---|"]
    for title, (names, packages) in ROWS.items():
        versions = ", ".join(map(version, packages.split(", ")))
        lines.append(f"| {title} | exact | {resume(names)} | {reshard(names)} | {how(names)} | {versions} |")
    return "\n".join(lines) + "\n"


def support(names: list[str], family: str) -> str:
    """Whether a family is tried in one of the layouts: always, or only by ``make test-all``."""
    own = [case for case in CASES if CASES[case].optimizer.family.name == family]
    for worlds in (layouts.LAYOUTS, zero.LAYOUTS):
        tried = [case for name in names if name in worlds for case in cases(list(worlds), name)]
        if set(own) & set(tried):
            return "exact"
    return "exact\\*"


def family_table() -> str:
    lines = [f"| layout | {' | '.join(FAMILIES)} |", f"|---{'|---' * len(FAMILIES)}|"]
    for title, (names, _) in ROWS.items():
        cells = [support(names, family) for family in FAMILIES.values()]
        lines.append(f"| {' | '.join((title, *cells))} |")
    return "\n".join(lines) + "\n"


def seen_by(in_running: object, in_config: object) -> str:
    """``gap-hf doctor`` sees configurations, the run its own objects."""
    return ", ".join(["the run"] * (in_running is not None) + ["`gap-hf doctor`"] * (in_config is not None))


def refusal_table() -> str:
    lines = ["| with | setting | why | instead | seen by |", "|---|---|---|---|---|"]
    for backend, refusal in all_refusals():
        lines.append(f"| {' | '.join((backend, *refusal[:3], seen_by(*refusal[3:])))} |")
    return "\n".join(lines) + "\n"


def put(text: str, begin: str, end: str, table: str) -> str:
    """``text`` with ``table`` between two marks."""
    before, rest = text.split(begin)
    return before + begin + "\n" + table + "\n" + end + rest.split(end)[1]


def write() -> None:
    """Put the tables into the page."""
    text = put(PAGE.read_text(), BEGIN, END, table())
    text = put(text, BEGIN_FAMILIES, END_FAMILIES, family_table())
    PAGE.write_text(put(text, BEGIN_REFUSALS, END_REFUSALS, refusal_table()))


if __name__ == "__main__":
    write()
