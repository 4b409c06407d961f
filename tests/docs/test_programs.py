"""The programs in the docs run as they stand."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from gap_hf.choices import read_choices
from gap_hf.choices.format import FILENAME

ROOT = Path(__file__).parents[2]
DDP = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "recipes/configs/ddp_cpu.yaml")]


def programs(page: str) -> list[str]:
    """The Python blocks of a page that import what they use."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if block.startswith("import torch")]


def run(launcher: list[str], program: str, folder: Path) -> str:
    script = folder / "program.py"
    script.write_text(program)
    done = subprocess.run([*launcher, str(script)], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(output: str) -> list[float]:
    return [float(x) for x in re.findall(r"loss ([\d.]+)", output)]


def test_plain_pytorch(tmp_path):
    output = run([sys.executable], programs("loops.md")[0], tmp_path)
    assert len(losses(output)) == 4
    assert losses(output)[-1] < losses(output)[0]
    assert re.search(r"choices \[\d, \d, \d, \d\]", output)


@pytest.mark.parametrize(("launcher", "processes"), [([sys.executable], 1), (DDP, 2)], ids=["python", "accelerate"])
def test_plain_accelerate(tmp_path, launcher, processes):
    output = run(launcher, programs("loops.md")[1], tmp_path)
    assert output.count(f"{processes} process(es)") == 4
    assert losses(output)[-1] < losses(output)[0]
    assert (tmp_path / "runs/accelerate/optimizer.bin").is_file()


def test_the_simulation_prints_what_the_page_says(tmp_path):
    page = (ROOT / "docs/algorithm.md").read_text()
    output = run([sys.executable], programs("algorithm.md")[0], tmp_path)
    assert output.strip() in page


@pytest.mark.parametrize(
    ("page", "number", "times"),
    [
        ("howto/trainer.md", 0, 1),
        ("howto/peft.md", 0, 1),
        ("howto/peft.md", 1, 1),
        ("howto/peft.md", 2, 1),
        ("howto/resume.md", 0, 2),
        ("logging.md", 0, 1),
    ],
)
def test_how_to(tmp_path, monkeypatch, page, number, times):
    """Run here, one after another: starting Python takes longer than they do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(programs(page)[number])
    for _ in range(times):
        runpy.run_path("program.py")
    (found,) = tmp_path.rglob(FILENAME)
    steps = read_choices(found).steps
    assert steps.tolist() == list(range(1, len(steps) + 1))
