"""Which published optimizers run as candidates: the table of docs/families/over.md, from what ran.

    python -m tests.over.methods

Each method that has a maintained class is looked at (``profile``), and then trained on two processes, alone and beside
AdamW, in DDP and, if it works element by element, in FSDP2; choices and parameters must be those of one process, by the
reference. What happened goes into ``gap_hf/optim/over/methods.csv``.
"""

import csv
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

import gap_hf
from gap_hf.optim.family import Grain
from gap_hf.optim.over import methods
from gap_hf.optim.over.leaves import Unfit
from gap_hf.optim.over.methods import Method
from gap_hf.optim.over.profile import NEEDS, Profile, profile
from gap_hf.optim.over.spec import of_text
from gap_hf.optim.reference.over import ReferenceOver

from ..sharding.bag import Case, tensors
from ..sharding.layouts import LAYOUTS
from ..sharding.leaving import leave
from ..sharding.run_layouts import compare
from ..tiny import ROOT

PAGE, RESULTS = ROOT / "docs/families/over.md", ROOT / "gap_hf/optim/over" / methods.TABLE
BEGIN, END = "<!-- the methods: python -m tests.over.methods -->\n", "<!-- end of the methods -->\n"
PO = "pytorch_optimizer."
TORCH = "torch.optim."
ADAMW = TORCH + "AdamW/weight_decay/0.0"
MATRICES = [[(6, 5), (4, 6)], [(4, 3), (8, 2)], [(7, 6), (5, 5)], [(3, 4)]]
"""Shapes for those that take matrices only."""

# fmt: off
METHODS = {
    "AdaBelief": PO + "AdaBelief", "AdaBound": PO + "AdaBound", "Adafactor": TORCH + "Adafactor",
    "AdaGC": PO + "AdaGC", "AdaGO": PO + "AdaGO/use_muon/True", "Adagrad": TORCH + "Adagrad", "Adam": TORCH + "Adam",
    "AdamP": PO + "AdamP", "AdamW": TORCH + "AdamW", "AdaMod": PO + "AdaMod", "AdaMuon": PO + "AdaMuon/use_muon/True",
    "Adan": PO + "Adan", "AdEMAMix": PO + "AdEMAMix", "ADOPT": PO + "ADOPT", "AMSGrad": TORCH + "Adam/amsgrad/True",
    "CAME": PO + "CAME", "D-Adaptation": PO + "DAdaptAdam", "diffGrad": PO + "DiffGrad", "Grams": PO + "Grams",
    "GSAM": PO + "GSAM", "LAMB": PO + "Lamb", "LARS": PO + "LARS", "Lion": PO + "Lion/lr_scale/0.1",
    "LookSAM": PO + "LookSAM", "MARS": PO + "MARS", "MoMo": "momo.Momo", "Muon": TORCH + "Muon",
    "NovoGrad": PO + "NovoGrad",
    "Prodigy": PO + "Prodigy", "RAdam": TORCH + "RAdam", "RMSprop": TORCH + "RMSprop", "SAM": PO + "SAM",
    "SGD": TORCH + "SGD/momentum/0.9", "SGD-SaI": PO + "SGDSaI", "SGDP": PO + "SGDP", "Shampoo": PO + "Shampoo",
    "SOAP": PO + "SOAP", "SPlus": PO + "SPlus", "Subset-Norm": PO + "AdamWSN/sn/True", "SWATS": PO + "SWATS",
    "WSAM": PO + "WSAM", "Yogi": PO + "Yogi",
}
"""Methods with a class that is kept up, as candidates. AGC has none: it clips gradients."""
# fmt: on
KINDS = ("first", "switch_parameter_wise")
"""How a method is tried: alone, and beside AdamW."""
PACKAGES = {"torch": "torch", "pytorch_optimizer": "pytorch_optimizer", "momo": "momo-opt"}
"""The packages of the classes, by module."""


def fitting(text: str) -> Profile | str:
    """The profile of a candidate, or why it has none."""
    try:
        return profile(of_text(text)[0])
    except Unfit as error:
        return str(error)


# ---------------------------------------------------------------- on two processes
def ranks(out: Path) -> None:
    """Train every method that fits; write for each, by layout, ``exact`` or what went wrong."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found: dict[str, dict[str, str]] = {}
    for method, text in METHODS.items():
        fits = fitting(text)
        if isinstance(fits, str):
            continue
        layouts = ("ddp", "fsdp2") if fits.grain is Grain.ELEMENT else ("ddp",)
        found[method] = {
            kind: "; ".join(sorted({trained(name, candidates, kind) for name in layouts}))
            for kind, candidates in zip(KINDS, (text, f"{ADAMW}:{text}"), strict=True)
        }
    (out / f"rank{dist.get_rank()}.json").write_text(json.dumps(found))
    leave()


def trained(layout: str, candidates: str, type_: str) -> str:
    """Train in a layout beside the reference."""
    case = Case(gap_hf.GapOver, ReferenceOver, {"candidates": candidates, "type": type_}, steps=20)
    shapes = None
    for name in ("Muon", "AdaMuon", "AdaGO"):
        if f".{name}" in candidates:
            shapes = MATRICES
    try:
        result = compare(LAYOUTS[layout][1](case, tensors(shapes=shapes)), case, tensors(shapes=shapes))
    except Exception:
        return traceback.format_exc()[-300:]
    if result["wrong"] or result["distance"] > 1e-5:
        return f"not as in one process: {result['wrong'][:1]}, {result['distance']}"
    return "exact"


# ---------------------------------------------------------------- the table
def rows() -> list[Method]:
    """Run everything."""
    with tempfile.TemporaryDirectory() as scratch:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        subprocess.run([*launch, "-m", "tests.over.methods", scratch], cwd=ROOT, check=True, timeout=1200)
        both: list[dict[str, Any]] = [json.loads(path.read_text()) for path in sorted(Path(scratch).glob("*.json"))]
    made = []
    for method, text in tqdm(METHODS.items(), unit="method"):
        package = PACKAGES[text.partition(".")[0]]
        version = importlib.metadata.version(package).partition("+")[0]
        fits = fitting(text)
        if isinstance(fits, str):
            made.append(Method(method, text, "refused", "refused", fits.split("\n")[0], "", package, version))
            continue
        alone, beside = ("; ".join({found[method][kind] for found in both}) for kind in KINDS)
        made.append(Method(method, text, alone, beside, NEEDS[fits.grain], f"{fits.bytes:.3g}", package, version))
    return made


def table(found: list[Method]) -> str:
    """Return the table, in Markdown."""
    versions = sorted({f"{row.package} {row.version}" for row in found})
    lines = [
        f"With {', '.join(versions)}:\n",
        "| method | candidate | alone | beside AdamW | works on | bytes per element of 64 x 64 |",
    ]
    lines.append("|---|---|---|---|---|---|")
    lines += [f"| {row.method} | `{row.candidate}` | {' | '.join(row[2:6])} |" for row in found]
    return "\n".join(lines) + "\n"


def main() -> None:
    found = rows()
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Method._fields)
        writer.writerows(found)
    page = PAGE.read_text(encoding="utf-8")
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    PAGE.write_text(between.sub(lambda _: f"{BEGIN}\n{table(found)}\n{END}", page), encoding="utf-8")


if __name__ == "__main__":
    ranks(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
