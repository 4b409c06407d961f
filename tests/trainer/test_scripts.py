"""Training scripts that know nothing of gap_hf, run by ``python -m gap_hf`` and ``accelerate launch -m gap_hf``."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import gap_hf
import gap_hf.__main__
from gap_hf.choices import read_choices
from gap_hf.choices.format import FILENAME
from gap_hf.doctor.machine import DDP_ON_CPUS
from gap_hf.integrations import autoload

from ..tiny import LAUNCH, ROOT, SCRIPTS, run, tiny_model

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
LINES = [" ".join(NUMBERS[(i + j) % 13] for j in range(8)) for i in range(13)] * 8


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """A directory with a text, a tokenizer made of it, and a model that fits."""
    path = tmp_path_factory.mktemp("local")
    (path / "train.txt").write_text("\n".join(LINES), encoding="utf-8")
    (path / "valid.txt").write_text("\n".join(LINES[:26]), encoding="utf-8")
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(LINES, trainers.WordLevelTrainer(special_tokens=["<pad>", "<unk>", "<s>", "</s>"]))
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(path / "model")
    tiny_model(vocab=32).save_pretrained(path / "model")
    (path / "data").mkdir()
    rows = [json.dumps({"text": line}) for line in LINES]
    (path / "data" / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return path


def run_clm(local: Path, output_dir: Path, *more: str) -> list[str]:
    """The command line of run_clm.py, as somebody would write it."""
    overrides = "vocab_size=32,hidden_size=16,intermediate_size=32,num_hidden_layers=2,num_attention_heads=2"
    flags = f"""
        --train_file {local}/train.txt --validation_file {local}/valid.txt --tokenizer_name {local}/model
        --config_overrides {overrides},num_key_value_heads=2,max_position_embeddings=64,head_dim=8
        --output_dir {output_dir} --do_train --do_eval --use_cpu
        --max_steps 12 --logging_steps 4 --save_strategy no --report_to none
        --learning_rate 0.01 --per_device_train_batch_size 4
    """
    return [str(SCRIPTS / "run_clm.py"), *flags.split(), *more]


def results(output_dir: Path) -> tuple[dict, list[dict]]:
    """What run_clm.py saved: its metrics and Trainer's log history."""
    metrics = json.loads((output_dir / "eval_results.json").read_text())
    return metrics, json.loads((output_dir / "trainer_state.json").read_text())["log_history"]


def test_run_clm(local, tmp_path):
    output = tmp_path / "out"
    done = run(
        [sys.executable, "-m", "gap_hf", *run_clm(local, output, "--optim", "gap_adamw")],
        HF_HOME=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics, logs = results(output)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["eval_loss"]))
    assert metrics["perplexity"] < 20  # of 32 tokens
    logged = [log for log in logs if "gap/beta1" in log]
    assert [log["step"] for log in logged] == [4, 8, 12]
    assert all(0.8 <= log["gap/beta1"] <= 0.99 for log in logged)
    assert read_choices(output).steps.tolist() == list(range(1, 13))
    assert set(load_file(output / "model.safetensors")) == set(read_choices(output).parameters)


def test_run_clm_in_two_processes(local, tmp_path):
    output = tmp_path / "out"
    args = run_clm(local, output, "--optim", "gap_adamw", "--optim_args", "type=switch,betas=0.5:0.9")
    done = run([*LAUNCH, "-m", "gap_hf", *args], HF_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    _, logs = results(output)
    assert [log["step"] for log in logs if "gap/share_0.5" in log] == [4, 8, 12]
    choices = read_choices(output)
    assert (choices.type, choices.labels) == ("switch", [["0.5", "0.9"]])
    assert choices.steps.tolist() == list(range(1, 13))
    # 104 lines of 8 words in blocks of 16 make 52 rows; 12 steps of 8 rows, and not of 4, are 96 of them
    assert logs[-2]["epoch"] == pytest.approx(12 / math.ceil(52 / 8), abs=0.01)


def test_only_rank_0_writes(tmp_path):
    """Both processes get an output_dir of their own here, so that a second writer would show.

    They are started by the flags that ``gap-hf doctor`` names, without a config file.
    """
    launcher, behind = DDP_ON_CPUS.removeprefix("accelerate launch ").split("SCRIPT")
    flags = f"--output_dir {tmp_path} --optim gap_adamw --max_steps 4 --logging_steps 2 --save_strategy no"
    script = [SCRIPTS / "rank_dirs.py", *behind.split(), *flags.split(), "--report_to", "none"]
    done = run([*LAUNCH[:3], *launcher.split(), "--main_process_port", "0", "-m", "gap_hf", *script])
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.parent.name for path in tmp_path.rglob("state.json")) == ["rank0", "rank1"]
    assert [p.parent.name for p in tmp_path.rglob(FILENAME)] == ["rank0"]
    assert read_choices(tmp_path / "rank0").steps.tolist() == [1, 2, 3, 4]


def test_one_process_where_two_were_asked_for(tmp_path):
    """accelerate starts a single process for --cpu --num_processes 2."""
    flags = f"--output_dir {tmp_path} --use_cpu --optim gap_adamw --max_steps 2 --save_strategy no --report_to none"
    script = [SCRIPTS / "rank_dirs.py", *flags.split()]
    done = run([*LAUNCH[:3], "--cpu", "--num_processes", "2", "--num_machines", "1", "-m", "gap_hf", *script])
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.parent.name for path in tmp_path.rglob("state.json")] == ["rank0"]
    assert "asked for several processes, but started only this one. Add --multi_gpu" in done.stderr


def test_processes_that_train_alone_are_refused(tmp_path):
    """accelerate connects two processes and then counts on one, where Trainer is not told of the CPU."""
    flags = f"--output_dir {tmp_path} --optim gap_adamw --max_steps 2 --save_strategy no --report_to none"
    done = run([*LAUNCH, "-m", "gap_hf", SCRIPTS / "rank_dirs.py", *flags.split()], CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert "2 processes were launched, but they don't know of each other" in done.stderr
    assert "--use_cpu true after the script's name" in done.stderr
    assert not [*tmp_path.rglob("state.json"), *tmp_path.rglob(FILENAME)]


def test_fsdp_that_became_ddp_is_refused(tmp_path):
    """accelerate drops FSDP under --use_cpu: nothing is trained, and every process says why."""
    flags = f"--output_dir {tmp_path} --use_cpu --optim gap_adamw --max_steps 4 --save_strategy no --report_to none"
    script = [SCRIPTS / "rank_dirs.py", *flags.split()]
    done = run([*LAUNCH, "-m", "gap_hf", *script], ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    assert done.returncode == 1
    assert "ValueError: FSDP was asked for, but every process holds whole parameters" in done.stderr
    assert "silently turns FSDP into DDP. Use accelerators, or distributed_type: MULTI_GPU" in done.stderr
    assert not [*tmp_path.rglob("state.json"), *tmp_path.rglob(FILENAME)]


def test_trl_sft(local, tmp_path):
    """TRL's own script, as a module, configured by TrlParser's YAML."""
    output = tmp_path / "out"
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
        model_name_or_path: {local}/model
        dataset_name: {local}/data
        output_dir: {output}
        optim: gap_adamw
        optim_args: betas=0.5:0.9:0.99
        learning_rate: 0.01
        max_steps: 6
        logging_steps: 3
        per_device_train_batch_size: 4
        max_length: 32
        use_peft: true
        lora_r: 4
        lora_target_modules: [q_proj, v_proj]
        use_cpu: true
        bf16: false
        dtype: float32
        gradient_checkpointing: false
        save_strategy: "no"
        report_to: none
        """,
        encoding="utf-8",
    )
    done = run(
        [sys.executable, "-m", "gap_hf", "-m", "trl.scripts.sft", "--config", config],
        HF_HOME=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    choices = read_choices(output)
    assert choices.steps.tolist() == list(range(1, 7))
    assert choices.labels[0] == ["0.5", "0.9", "0.99"]
    assert sorted(name.removeprefix("base_model.model.model.layers.") for name in choices.parameters) == [
        f"{layer}.self_attn.{module}.lora_{matrix}.default.weight"
        for layer in range(2)
        for module in ("q_proj", "v_proj")
        for matrix in "AB"
    ]
    assert "'gap/share_0.99'" in done.stdout
    saved = torch.load(output / "training_args.bin", weights_only=False)
    assert (saved.optim.value, saved.optim_args) == ("gap_adamw", "betas=0.5:0.9:0.99")


GAP = [sys.executable, "-m", "gap_hf"]
TRL = [Path(sys.executable).parent / "trl", "sft"]
"""Starts the script in a process of its own."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "by_autoload"),
    [
        (TRL, True),
        ([*TRL, "--multi_gpu", "--num_processes", "2"], True),
        ([*GAP, "-m", "trl.cli.main", "sft", "-m", "gap_hf", "--accelerate_config", LAUNCH[-1]], False),
    ],
    ids=["autoload", "autoload, two processes", "gap_hf twice"],
)
def test_trl_command(local, tmp_path, monkeypatch, command, by_autoload):
    """``docs/howto/trl.md`` names these ways."""
    flags = f"""
        --model_name_or_path {local}/model --dataset_name {local}/data --output_dir {tmp_path}/out --optim gap_adamw
        --max_steps 4 --per_device_train_batch_size 4 --max_length 32 --use_cpu --bf16 false --dtype float32
        --gradient_checkpointing false --save_strategy no --report_to none
    """
    monkeypatch.setattr(autoload, "place", lambda: tmp_path / autoload.FILE)
    autoload.turn_on()
    # in the place of the environment's packages, which other tests use, too
    (tmp_path / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({str(tmp_path)!r})\n")
    environment = {"PYTHONPATH": str(tmp_path)} if by_autoload else {}
    done = run([*command, *flags.split()], HF_HOME=str(tmp_path / "cache"), **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_choices(tmp_path / "out").steps.tolist() == [1, 2, 3, 4]


# ---------------------------------------------------------------- the command itself
def call(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gap_hf", *arguments])
    monkeypatch.setattr(sys, "path", ["here", *sys.path])
    gap_hf.__main__.main()


def test_no_arguments():
    done = run([sys.executable, "-m", "gap_hf"])
    assert done.returncode == 2
    assert done.stdout.startswith("usage: python -m gap_hf SCRIPT.py [ARGS ...]")


def test_help(monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit:
        call(monkeypatch, "--help")
    assert exit.value.code == 0
    assert "accelerate launch [FLAGS ...] -m gap_hf SCRIPT.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing_here.py", "--x"], "gap_hf: no such script: 'nothing_here.py'; expected the path of a Python file"),
        (["tests"], "gap_hf: no such script: 'tests'"),
        (["-m"], "gap_hf: -m needs a module"),
        (
            ["-m", "trl.cli"],
            "gap_hf: 'trl.cli' is a package that can't be run by itself: it has no __main__ module. Run one of its "
            "modules, -m trl.cli.MODULE; it has accelerate_config, accelerate_launcher, commands, main\n",
        ),
    ],
)
def test_wrong_arguments(monkeypatch, arguments, says):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as exit:
        call(monkeypatch, *arguments)
    assert str(exit.value.code).startswith(says)  # a text: Python prints it to stderr and exits with 1
    assert "usage: python -m gap_hf" in exit.value.code


def test_unknown_module(monkeypatch):
    with pytest.raises(ImportError, match="no_such_module"):
        call(monkeypatch, "-m", "no_such_module")


SCRIPT = """
import json, os, sys
import neighbour
print(json.dumps([__name__, sys.argv, sys.path[0], neighbour.__file__, "gap_hf" in sys.modules]))
"""


def test_script_sees_what_it_would_by_itself(monkeypatch, tmp_path, capsys):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "neighbour.py").write_text("")
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    monkeypatch.chdir(tmp_path.parent)
    given = [f"{tmp_path.name}/script.py", "--flag", "a b", "-m"]
    call(monkeypatch, *given)
    name, argv, first, neighbour, imported = json.loads(capsys.readouterr().out)
    assert (name, argv) == ("__main__", given)
    assert (first, neighbour) == (str(tmp_path), str(tmp_path / "neighbour.py"))
    assert imported


def test_exit_status_of_the_script_is_kept(monkeypatch, tmp_path):
    (tmp_path / "fails.py").write_text("raise SystemExit(7)")
    with pytest.raises(SystemExit) as exit:
        call(monkeypatch, str(tmp_path / "fails.py"))
    assert exit.value.code == 7


def test_module(monkeypatch, tmp_path, capsys):
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "train.py").write_text("import json, sys\nprint(json.dumps([__name__, __package__, sys.argv]))")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gap_hf", "-m", "some_package.train", "--flag", "x"])
    gap_hf.__main__.main()
    name, parent, argv = json.loads(capsys.readouterr().out)
    assert (name, parent) == ("__main__", "some_package")
    assert argv == [str(package / "train.py"), "--flag", "x"]
