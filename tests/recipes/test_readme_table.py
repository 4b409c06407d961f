"""Every recipe under every configuration that the README's table names, two steps each.

Takes some fifteen minutes: make test PYTEST="-m slow tests/recipes". Without -m slow only the table itself is checked;
the other tests run each recipe once.
"""

import re
import shlex
import sys
from pathlib import Path

import pytest

from gap_hf.trainer.presets import PRESETS

from ..tiny import ROOT, needs_compiler, run

ROW = re.compile(
    r"^\| (`(?P<recipe>\w+\.py)`|the same) \|.*?\| (`(?P<preset>\w+)`)? ?\| "
    r"`(?P<single>[^`]+)`.*?\| (?P<several>.*) \|$"
)


def table() -> list[dict[str, str]]:
    """The rows; "the same" stands for the recipe above."""
    rows: list[dict[str, str]] = []
    for line in (ROOT / "README.md").read_text().split("\n## Recipes\n")[1].split("\n## ")[0].splitlines():
        if match := ROW.match(line):
            rows.append({**match.groupdict(), "recipe": match["recipe"] or rows[-1]["recipe"]})
    return rows


def launches() -> list:
    """(flags of the row, config) of every command of the table."""
    found = []
    for row in table():
        flags = shlex.split(row["single"].split(row["recipe"])[1])
        for config in [None, *re.findall(r"(\w+)\.yaml", row["several"])]:
            marks = [needs_compiler] if config and "zero" in config else []
            name = "-".join(filter(None, [row["recipe"], config, *flags[1:2]]))
            found.append(pytest.param(row["recipe"], flags, config, id=name, marks=[pytest.mark.slow, *marks]))
    return found


def test_the_table_has_every_recipe_and_preset():
    recipes = {path.name for path in (ROOT / "recipes").glob("*.py")} - {"common.py", "offline.py", "offline_images.py"}
    assert {row["recipe"] for row in table()} == recipes
    presets = {name for name, preset in PRESETS.items() if preset.recommended}
    assert {row["preset"] for row in table() if row["preset"]} == presets
    for row in table():
        for config in re.findall(r"(\w+\.yaml)", row["several"]):
            assert (ROOT / "recipes" / "configs" / config).is_file()
        assert row["single"].startswith(f"python recipes/{row['recipe']}")


@pytest.mark.parametrize(("recipe", "flags", "config"), launches())
def test_command(tmp_path, recipe, flags, config):
    script, environment = [f"recipes/{recipe}", *flags, "--output_dir", tmp_path], {}
    if recipe == "qlora.py":
        script.append("--dry_run")
    elif recipe == "loop.py":
        script += ["--max_steps", "2", "--batch_size", "2", "--eval_rows", "4"]
    else:
        script += ["--max_steps", "2", "--per_device_train_batch_size", "2", "--eval_rows", "4", "--logging_steps", "1"]
    launcher = [sys.executable]
    if config is not None:
        launcher += ["-m", "accelerate.commands.launch", "--config_file", f"recipes/configs/{config}.yaml"]
        if "fsdp" in config:
            launcher += ["-m", "tests.sharding.on_cpu"]
            script += ["--use_cpu", "false"]
            environment["ACCELERATE_TORCH_DEVICE"] = "cpu"
        elif "zero" in config:
            script += ["--use_cpu", "false", "--ddp_backend", "gloo"]
    done = run([*launcher, *script], timeout=500, **environment)
    assert done.returncode == 0, done.stderr[-4000:]
    if recipe != "qlora.py":
        assert (tmp_path / "gap_report.html").is_file()
        assert list(Path(tmp_path).glob("*model.safetensors"))
