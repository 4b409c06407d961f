"""Every recipe but the quickstart (which has a file of its own), in a reduced size, offline."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from gap_hf.choices import read_choices

from ..tiny import ROOT, run

RECIPES = ROOT / "recipes"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", RECIPES / "configs" / "ddp_cpu.yaml"]
SMALL = "--max_steps 3 --per_device_train_batch_size 2 --per_device_eval_batch_size 4 --eval_rows 8 --logging_steps 1"


def train(recipe: str, out: Path, *flags: str, launcher: list = (sys.executable,), timeout: float = 400) -> str:
    """Run it to its end; it must say what it did and leave a report."""
    done = run([*launcher, RECIPES / recipe, "--output_dir", out, *flags], timeout=timeout)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"report: {out / 'gap_report.html'}" in done.stdout
    assert (out / "gap_report.html").stat().st_size > 10_000
    return done.stdout


def test_trl(tmp_path):
    train("sft_trl.py", tmp_path, *SMALL.split())
    base = json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path)
    assert any(bool(p.any()) for name, p in model.named_parameters() if "lora_B" in name), "it has been trained"
    assert read_choices(tmp_path).choices.shape == (3, 120)


def test_vision(tmp_path):
    """A few steps already tell digits apart better than chance, also after loading."""
    flags = ["--max_steps", "25", "--eval_rows", "200", "--per_device_train_batch_size", "16", "--logging_steps", "5"]
    train("vision_lora.py", tmp_path, *flags)
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert results["eval_accuracy"] > 0.3
    assert results["eval_loss"] < results["eval_loss_before"]
    base = json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = AutoModelForImageClassification.from_pretrained(base, config=AutoConfig.from_pretrained(tmp_path))
    model = PeftModel.from_pretrained(model, tmp_path).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPES))
        from offline_images import digits
        from transformers import AutoImageProcessor
        from vision_lora import collate
    batch = collate(digits()[1][:200], AutoImageProcessor.from_pretrained(tmp_path), 56)
    with torch.no_grad():
        right = (model(pixel_values=batch["pixel_values"]).logits.argmax(-1) == batch["labels"]).float().mean().item()
    assert right == pytest.approx(results["eval_accuracy"], abs=0.02)


def test_text_classification(tmp_path):
    train("classify_text.py", tmp_path, "--max_steps", "60", "--eval_rows", "200", "--max_length", "32")
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert results["eval_accuracy"] > 0.5, "of eight"
    assert results["eval_loss"] < results["eval_loss_before"]
    base = json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
    config = AutoConfig.from_pretrained(tmp_path)
    model = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base, config=config), tmp_path)
    inputs = AutoTokenizer.from_pretrained(tmp_path)("Return the widget's geometry as a string.", return_tensors="pt")
    assert config.id2label[int(model.eval()(**inputs).logits.argmax())] == "tkinter"


def test_sgd(tmp_path):
    flags = ["--num_train_epochs", "1", "--eval_rows", "200", "--logging_steps", "10"]
    train("sgd_images.py", tmp_path, *flags)
    assert json.loads((tmp_path / "eval_results.json").read_text())["eval_accuracy"] > 0.5
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.num_labels == 10
    assert read_choices(tmp_path).candidate == "momentum"
    assert read_choices(tmp_path).type == "switch"


def test_sgd_baseline(tmp_path):
    """torch's SGD through the same recipe, as its head says."""
    flags = ["--max_steps", "3", "--eval_rows", "20", "--optim_args", "type=default,momentum=0.9"]
    done = run([sys.executable, RECIPES / "sgd_images.py", "--output_dir", tmp_path, *flags])
    assert done.returncode == 0, done.stderr[-4000:]
    assert not (tmp_path / "gap_choices.jsonl").exists()


def test_loop_in_two_processes(tmp_path):
    flags = ["--max_steps", "3", "--batch_size", "2", "--eval_rows", "8", "--logging_steps", "1", "--accumulation", "2"]
    out = train("loop.py", tmp_path, *flags, launcher=LAUNCH)
    assert out.count("step 3: loss") == 1, "said by one process"
    assert "'gap/beta1'" in out
    base = json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path)
    assert any(bool(p.any()) for name, p in model.named_parameters() if "lora_B" in name)
    assert read_choices(tmp_path).choices.shape == (3, 120)


def test_qlora_dry_run(tmp_path):
    done = run([sys.executable, RECIPES / "qlora.py", "--dry_run", "--output_dir", tmp_path])
    assert done.returncode == 0, done.stderr[-4000:]
    assert "in the adapter, which gap_adamw_llm_lora would train on" in done.stdout
    assert not list(tmp_path.iterdir())


def test_qlora_needs_a_gpu(tmp_path):
    done = run([sys.executable, RECIPES / "qlora.py", "--output_dir", tmp_path], CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("QLoRA needs an NVIDIA GPU: there is none.")
    assert not list(tmp_path.iterdir())


def refused(recipe: str, *flags: object) -> str:
    """What the recipe says when it refuses to run; here, because starting Python takes longer than the refusal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPES))
        patch.setattr(sys, "argv", [f"{recipe}.py", *map(str, flags)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(RECIPES / f"{recipe}.py"), run_name="__main__")
    return str(stopped.value)


ALL = ["quickstart", "sft_trl", "qlora", "vision_lora", "classify_text", "full_finetune"]


@pytest.mark.parametrize("recipe", [*ALL, "loop"])
def test_missing_model(tmp_path, recipe):
    more = ["--dry_run"] if recipe == "qlora" else []
    flags = ["--model", "/no/such/model", "--output_dir", tmp_path / "out", *more]
    assert refused(recipe, *flags) == "--model /no/such/model: there is no such directory."
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", ["vision_lora", "sgd_images"])
def test_unknown_preset(tmp_path, recipe):
    said = refused(recipe, "--preset", "gap_adamw_vison", "--output_dir", tmp_path / "out")
    assert said.startswith("--preset 'gap_adamw_vison' is not a preset; expected one of ")
    assert "gap_adamw_vision_lora" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", ["loop", "sgd_images"])
def test_unknown_flag(tmp_path, recipe):
    """Of the second, which trains a network of its own, --model is one."""
    flag = "--modle" if recipe == "loop" else "--model"
    said = refused(recipe, flag, "x", "--output_dir", tmp_path / "out")
    assert said == f"Unknown on the command line: {flag} x. See --help."
    assert not (tmp_path / "out").exists()


def test_presets_and_flags():
    """A preset brings optimizer, learning rate and decay; flags win."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPES))
        from common import parse
        from full_finetune import DEFAULTS as FULL
        from quickstart import DEFAULTS, ScriptArguments
    small = parse(ScriptArguments, DEFAULTS, ["--preset", "gap_adamw_small_batch", "--use_cpu", "true"])[1]
    assert (small.optim.value, small.learning_rate, small.weight_decay) == ("gap_adamw_small_batch", 1e-3, 0.01)
    assert parse(ScriptArguments, FULL, ["--use_cpu", "true"])[1].learning_rate == 2e-5, "the recipe's own"
    asked_for = parse(ScriptArguments, FULL, ["--preset", "gap_adamw_llm_lora", "--use_cpu", "true"])[1]
    assert asked_for.learning_rate == 2e-4
    own = parse(ScriptArguments, DEFAULTS, ["--learning_rate", "0.5", "--optim", "adamw_torch", "--use_cpu", "true"])[1]
    assert (own.optim.value, own.learning_rate, own.weight_decay) == ("adamw_torch", 0.5, 0.0)


def test_data_without_the_columns(tmp_path):
    (tmp_path / "rows.csv").write_text("text,lable\na,1\nb,0\n")
    said = refused("classify_text", "--data", tmp_path / "rows.csv", "--output_dir", tmp_path / "out")
    assert said.endswith("rows.csv: it must have the columns text, label; wrong or missing: label.")
    assert not (tmp_path / "out").exists()


def test_pictures_in_folders(tmp_path):
    """--data DIRECTORY, with a folder of pictures per class."""
    from PIL import Image

    for label, color in (("dark", 20), ("light", 230)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (10 + i, 12), (color, color, 10 * i)).save(tmp_path / "data" / label / f"{i}.png")
    flags = ["--max_steps", "2", "--eval_rows", "2", "--per_device_train_batch_size", "4"]
    out = tmp_path / "out"
    train("sgd_images.py", out, "--data", str(tmp_path / "data"), *flags)
    assert AutoModelForImageClassification.from_pretrained(out).config.num_labels == 2
