"""Fine-tune in the frameworks that people use, through their own command lines, and compare every choice.

    python -m tests.hosts                            # all of them, in all layouts
    python -m tests.hosts axolotl --layouts ddp zero2

Each host is installed at its own pins into an environment of its own, beside the project's. A module here says how, and
gives the command line for a layout. The choices in one process, under DDP and with DeepSpeed must be those of the
reference, which is given the gradients that the host's run had (``witness.py``, ``replay.py``); FSDP2's must be DDP's.
What happened goes into ``docs/hosts.csv``, and from there into the table of ``docs/hosts.md``.
"""

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gap_hf.choices import read_choices

from . import material, replay, table

ROOT = Path(__file__).parents[2]
HOSTS = ("trl", "axolotl", "llamafactory", "llamafactory_v1", "swift", "lightning")
LAYOUTS = ("one", "ddp", "fsdp2", "zero2", "zero3")
WITNESSED = ("one", "ddp", "zero2", "zero3")
LIMIT = 900


def module(host: str) -> Any:
    """Import what is known of a host."""
    return importlib.import_module(f"{__package__}.{host}")


def environment(host: str, folder: Path) -> Path:
    """Install a host, unless it is there; return its environment."""
    place = folder / getattr(module(host), "ENVIRONMENT_OF", host)
    python = place / "bin" / "python"
    if not (place / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, timeout=600)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        variables = {**os.environ, "DS_ACCELERATOR": "cpu", "PATH": path_with(place)}
        own = ["aenum", "psutil", "rich", "typer"], ["--no-deps", "--editable", str(ROOT)]
        for arguments in [*module(host).INSTALL, *own]:
            subprocess.run([*pip, *arguments], check=True, timeout=3600, env=variables)
        (place / "done").touch()
    # Python itself loads both: gap_hf, as its users have it, and the witness
    subprocess.run([str(place / "bin" / "gap-hf"), "autoload", "on"], check=True, timeout=120)
    packages = next((place / "lib").glob("python3*/site-packages"))
    witness = str(ROOT / "tests/hosts/witness.py")
    line = f"import os; os.environ.get('GAP_WITNESS') and exec(open({witness!r}).read(), {{}})"
    (packages / "witness.pth").write_text(line + "\n")
    return place


def path_with(place: Path) -> str:
    """PATH with an environment's commands first."""
    return os.pathsep.join([str(place / "bin"), os.environ.get("PATH", "")])


def run(host: str, layout: str, place: Path, folder: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run a host's command line; give what it printed, and where its witness wrote."""
    output, witness = folder / host / layout, folder / host / f"{layout}-witness"
    for old in (output, witness):
        shutil.rmtree(old, ignore_errors=True)
    arguments, more = module(host).command(folder / "material", output, layout)
    paths = [str(ROOT), *filter(None, [more.get("PYTHONPATH")])]
    variables = {**os.environ, "TORCH_EXTENSIONS_DIR": str(place / "extensions"), **more}
    variables |= {"PATH": path_with(place), "PYTHONPATH": os.pathsep.join(paths), "VIRTUAL_ENV": str(place)}
    if layout in WITNESSED:
        variables["GAP_WITNESS"] = str(witness)
    arguments = [str(place / "bin" / arguments[0]), *arguments[1:]]
    done = subprocess.run(arguments, env=variables, cwd=folder, capture_output=True, text=True, timeout=LIMIT)
    return done, witness


def judge(host: str, layout: str, place: Path, folder: Path) -> tuple[str, str]:
    """Run a layout and compare; return ``exact``, ``refused`` or ``failed``, and a reason."""
    done, witness = run(host, layout, place, folder)
    printed = done.stdout + done.stderr
    if expected := module(host).REFUSED.get(layout):
        return (
            ("refused", expected) if done.returncode and re.search(expected, printed) else ("failed", printed[-1500:])
        )
    found = list((folder / host / layout).rglob("gap_choices.jsonl"))
    if done.returncode or len(found) != 1:
        return "failed", printed[-3000:]
    chosen = read_choices(found[0])
    mine = chosen.choices.tolist()
    if layout in WITNESSED:
        theirs = replay.choices(witness, chosen.parameters)
    else:
        theirs = read_choices(next((folder / host / "ddp").rglob("gap_choices.jsonl"))).choices.tolist()
    if mine != theirs:
        return "failed", f"chosen: {mine}\nexpected: {theirs}"
    applied = {choice for row in mine for choice in row}
    if len(applied) < 2:
        return "failed", f"every choice is candidate {applied}, with which nothing is compared"
    return "exact", f"{len(mine)} steps, {len(mine[0])} parameters, {len(applied)} candidates applied"


def versions(place: Path) -> str:
    """What is installed there of what matters."""
    names = ("torch", "transformers", "accelerate", "peft", "trl", "lightning", "deepspeed")
    ask = f"""
import importlib.metadata as m
for name in {names}:
    try: print(name, m.version(name), end="; ")
    except m.PackageNotFoundError: pass
"""
    printed = subprocess.run([str(place / "bin/python"), "-c", ask], capture_output=True, text=True, timeout=120).stdout
    return printed.strip().rstrip(";").replace("+cpu", "")


def main() -> int:
    """Run what is asked for; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hosts", nargs="*", help="instead of all of them")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv-hosts", help="where the hosts are installed")
    parser.add_argument("--runs", type=Path, help="where the runs go; a temporary folder by default")
    given = parser.parse_args()
    runs = (given.runs or Path(tempfile.mkdtemp(prefix="gap-hosts-"))).resolve()
    material.write(runs / "material")
    failed = 0
    cases = [(host, layout) for host in given.hosts or HOSTS for layout in given.layouts]
    for host, layout in (bar := tqdm(cases, unit="run")):
        bar.set_description(f"{host} {layout}")
        place = environment(host, given.folder.resolve())
        result, reason = judge(host, layout, place, runs)
        failed += result == "failed"
        bar.write(f"{host} {layout}: {result} ({reason})")
        table.record(table.Result(host, module(host).VERSION, layout, result, versions(place)))
    return failed


if __name__ == "__main__":
    sys.exit(main())
