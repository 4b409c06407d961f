"""The quickstart recipe, in a reduced size, on the real pretrained model and the real text."""

import json
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from gap_hf.choices import read_choices

from ..tiny import run
from .test_recipes import refused

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "quickstart.py"
CONFIG = ROOT / "recipes" / "configs" / "ddp_cpu.yaml"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIG]
SMALL = "--max_steps 4 --per_device_train_batch_size 2 --per_device_eval_batch_size 4 --eval_rows 8 --logging_steps 2"


@torch.no_grad()
def improvement(base: Path, adapter: Path) -> float:
    """By how much the saved adapter lowers the loss on the recipe's held-out rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE.parent))
        from common import tokenize
        from offline import docstrings
    rows = tokenize(docstrings()[1][:8], AutoTokenizer.from_pretrained(adapter), max_length=96)
    inputs = [{name: torch.tensor([ids]) for name, ids in row.items()} for row in rows]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16"), adapter).eval()
    after = fmean(model(**row).loss.item() for row in inputs)
    with model.disable_adapter():
        return fmean(model(**row).loss.item() for row in inputs) - after


def test_two_processes_train_save_reload_and_plot(tmp_path):
    options = [*SMALL.split(), "--learning_rate", "2e-3", "--warmup_steps", "0"]
    done = run([*LAUNCH, RECIPE, "--expect_world_size", "2", "--output_dir", tmp_path, *options], timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "2 process(es), optimizer gap_adamw" in done.stdout
    assert "find_unused_parameters" not in done.stderr, "DDP looks for nothing that isn't there"
    written = {line.split(":")[0]: line.split(":", 1)[1].strip() for line in done.stdout.splitlines() if ":" in line}
    assert written["before training"]
    assert written["after training"]
    assert "GAP applied beta1 = 0.8 in " in done.stdout
    losses = json.loads((tmp_path / "eval_results.json").read_text())
    before, after = losses["eval_loss_before"], losses["eval_loss"]
    assert after < before < 6, "a pretrained model, and it learns"
    base = json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert improvement(base, tmp_path) == pytest.approx(before - after, rel=0.3), "the trained weights were saved"
    choices = read_choices(tmp_path)
    assert choices.choices.shape == (4, 120)
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    saved = {f"{name.removesuffix('.weight')}.default.weight" for name in adapter}
    assert saved == set(choices.parameters), "the file names the adapter's own tensors"
    assert (tmp_path / "gap_layers.png").stat().st_size > 0
    assert (tmp_path / "gap_report.html").stat().st_size > 0


def test_another_launch_than_expected_is_refused(tmp_path):
    done = run([sys.executable, RECIPE, "--expect_world_size", "2", "--output_dir", tmp_path], timeout=120)
    assert done.returncode == 1
    assert "Trainer sees 1 process(es), not 2" in done.stderr
    assert not list(tmp_path.iterdir())


def test_processes_that_would_train_alone_are_refused(tmp_path):
    """Without Trainer's own --use_cpu both processes see themselves alone."""
    done = run([*LAUNCH, RECIPE, "--use_cpu", "false", "--output_dir", tmp_path], timeout=120)
    assert done.returncode != 0
    assert "Trainer sees 1 process(es), not 2" in done.stderr


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ('{"prompt": "a"}\n' * 3, "must have the columns prompt, completion; wrong or missing: completion"),
        ('{"prompt": "a", "completion": "b"}\n' * 3, "--eval_rows 3 leaves none of the 3 rows"),
    ],
)
def test_bad_data(tmp_path, rows, says):
    (tmp_path / "rows.jsonl").write_text(rows)
    flags = ["--data", tmp_path / "rows.jsonl", "--eval_rows", 3, "--output_dir", tmp_path / "out"]
    assert says in refused("quickstart", *flags)
    assert not (tmp_path / "out").exists()


def test_missing_data(tmp_path):
    done = run([sys.executable, RECIPE, "--data", "missing.jsonl", "--output_dir", tmp_path], timeout=200)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "--data missing.jsonl: there is no such file."
