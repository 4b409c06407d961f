"""The recipes for language models under every config: DDP's choices and losses, and a resumed run that is bitwise the
same."""

import functools
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from gap_hf.choices import Choices, read_choices

from ..tiny import ROOT, needs_compiler, run

STEPS, SAVED = 8, 4
TOKENS = 16_384
CONFIGS = ROOT / "recipes" / "configs"
WISE = "betas=0.5:0.8:0.99,hysteresis_threshold=1"
SWITCH = f"type=switch,{WISE}"
SHARDED = "--fsdp_state_dict_type SHARDED_STATE_DICT"


LORA = "quickstart.py --dtype float32 --lora_targets all-linear --learning_rate 2e-3"
FULL = "full_finetune.py --learning_rate 1e-4"


class Case(NamedTuple):
    """A config, how to choose, which recipe with which flags, and what is added to `accelerate launch`."""

    config: str
    optim_args: str = WISE
    what: str = LORA
    launch: str = ""

    def ddp(self) -> "Case":
        """The same under DDP."""
        return Case("ddp", self.optim_args, self.what)


CASES = {
    "fsdp1": Case("fsdp1", what=FULL),
    "fsdp1-sharded-checkpoint": Case("fsdp1", what=FULL, launch=SHARDED),
    "fsdp2": Case("fsdp2"),
    "fsdp2-all-weights": Case("fsdp2", what=FULL),
    "fsdp2-sharded-checkpoint": Case("fsdp2", SWITCH, launch=SHARDED),
    "hsdp": Case("hsdp"),
    "zero1": Case("zero1"),
    "zero2": Case("zero2"),
    "zero3": Case("zero3"),
    "zero3-all-weights": Case("zero3", what=FULL),
    "zero3_offload": Case("zero3_offload", SWITCH),
}
EACH = [pytest.param(case, id=name, marks=needs_compiler if "zero" in name else ()) for name, case in CASES.items()]


@dataclass
class Trained:
    """What a run left behind."""

    losses: list[float]
    choices: Choices
    weights: dict[str, torch.Tensor]

    @staticmethod
    def load(directory: Path) -> "Trained":
        logs = json.loads((directory / "trainer_state.json").read_text())["log_history"]
        losses = [log["loss"] for log in logs if "loss" in log]
        (weights,) = directory.glob("*model.safetensors")  # the adapter's, or the whole model's
        return Trained(losses, read_choices(directory), load_file(weights))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> list[Any]:
    """The options for the pretrained model's first two layers and tokens, and short rows of the real text."""
    where = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "recipes"))
        from offline import docstrings, smollm2
    model = AutoModelForCausalLM.from_pretrained(smollm2(), num_hidden_layers=2)
    model.resize_token_embeddings(TOKENS)
    model.save_pretrained(where / "model")
    tokenizer = AutoTokenizer.from_pretrained(smollm2())
    tokenizer.save_pretrained(where / "model")
    texts = {row["prompt"] + row["completion"]: row for row in docstrings()[0]}
    fitting = [text for text in sorted(texts, key=len) if max(tokenizer(text)["input_ids"]) < TOKENS]
    rows = [texts[text] for text in fitting[:40]]
    (where / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--model", where / "model", "--data", where / "rows.jsonl", "--eval_rows", 4]


@pytest.fixture(scope="module")
def train(small, tmp_path_factory) -> Callable[..., Path]:
    """Launch a case, once; give the output directory."""

    @functools.cache
    def launch(case: Case, resume: Path | None = None) -> Path:
        out = tmp_path_factory.mktemp("out")
        processes = {"single": 1, "hsdp": 4}.get(case.config, 2)
        recipe, *flags = case.what.split()
        script, environment = [f"recipes/{recipe}"], {"CUDA_VISIBLE_DEVICES": ""}
        if "fsdp" in case.config or case.config == "hsdp":
            script = ["-m", "tests.sharding.on_cpu", *script, "--use_cpu", "false"]
            environment["ACCELERATE_TORCH_DEVICE"] = "cpu"
        elif case.config.startswith("zero"):
            script += ["--use_cpu", "false", "--ddp_backend", "gloo"]
        if resume is not None:
            shutil.copy(resume / "gap_choices.jsonl", out)
            script += ["--resume_from_checkpoint", resume / f"checkpoint-{SAVED}"]
        options = f"--max_steps {STEPS} --save_steps {SAVED} --logging_steps 1 --warmup_steps 1"
        options += f" --per_device_train_batch_size {4 // processes} --lr_scheduler_type constant_with_warmup"
        command = [sys.executable, "-m", "accelerate.commands.launch"]
        command += ["--config_file", CONFIGS / f"{case.config}.yaml", *case.launch.split(), *script, *small]
        command += ["--expect_world_size", processes, "--output_dir", out, "--optim_args", case.optim_args]
        done = run([*command, *options.split(), *flags], **environment)
        assert done.returncode == 0, done.stderr[-4000:]
        shutil.rmtree(out / f"checkpoint-{STEPS}")
        return out

    return launch


def assert_same_training(mine: Trained, reference: Trained) -> None:
    assert mine.choices.parameters == reference.choices.parameters
    assert mine.choices.choices.tolist() == reference.choices.choices.tolist()
    assert mine.losses == pytest.approx(reference.losses, rel=1e-4)
    assert mine.weights.keys() >= reference.weights.keys()  # FSDP1 saves tied weights twice
    for name, value in reference.weights.items():
        assert (mine.weights[name] - value).norm() <= 1e-3 * value.norm(), name


@pytest.mark.parametrize(
    ("case", "chosen"),
    [(Case("ddp"), 28), (Case("ddp", SWITCH), 1), (Case("ddp", what=FULL), 20)],
    ids=["wise", "switch", "all-weights"],
)
def test_ddp_changes_its_choice(train, case, chosen):
    """Where it never does, also after the checkpoint, the other tests show nothing."""
    trained = Trained.load(train(case))
    assert trained.choices.choices.shape == (STEPS, chosen)
    assert len(trained.losses) == STEPS
    assert len(set(trained.choices.choices[SAVED:].ravel().tolist())) > 1
    assert trained.losses[-1] < 0.95 * trained.losses[0]


def test_one_process_chooses_like_two(train):
    assert_same_training(Trained.load(train(Case("single"))), Trained.load(train(Case("ddp"))))


@pytest.mark.parametrize("case", EACH)
def test_chooses_like_ddp(train, case):
    assert_same_training(Trained.load(train(case)), Trained.load(train(case.ddp())))


ONLY_CHOICES = ("hsdp", "zero1", "zero3_offload", "fsdp2-all-weights", "zero3-all-weights")


# launches take time: DDP is resumed in tests/trainer, HSDP and the others of ZeRO in test_checkpoints.py
@pytest.mark.parametrize("case", [param for param in EACH if param.id not in ONLY_CHOICES])
def test_resumed_run_is_bitwise_the_same(train, case):
    whole, resumed = Trained.load(train(case)), Trained.load(train(case, train(case)))
    assert resumed.losses == whole.losses
    assert resumed.choices.steps.tolist() == list(range(1, STEPS + 1))
    assert resumed.choices.choices.tolist() == whole.choices.choices.tolist()
    assert resumed.weights.keys() == whole.weights.keys()
    for name, value in whole.weights.items():
        assert torch.equal(resumed.weights[name], value), name


def test_lora_under_fsdp1(train):
    """PEFT leaves the adapter out of checkpoints there: it trains like the others, and resuming is refused."""
    case = Case("fsdp1")
    assert_same_training(Trained.load(train(case)), Trained.load(train(case.ddp())))
    with pytest.raises(AssertionError, match="Under FSDP1 peft 0.21 leaves the adapter out of checkpoints"):
        train(case, train(case))
