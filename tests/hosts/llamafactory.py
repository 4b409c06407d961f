"""LLaMA-Factory 0.9.5 on CPUs: its installation, and the command lines that its users type.

Layouts with ``v1_`` in front train with the second generation (``USE_V1=1``). Its processes synchronize an accelerator
after each step, so several of them can't run on CPUs; here that call does nothing.
"""

import json
from pathlib import Path
from typing import Any

from .material import BETAS, LEARNING_RATE

RECIPES = Path(__file__).parents[2] / "recipes" / "configs"

# The requirements without torchaudio and torchvision, whose wheels on PyPI are built for CUDA: neither works beside
# torch's CPU wheel. LLaMA-Factory imports torchaudio, but uses it for audio only: see stand_ins.
REQUIREMENTS = """
    transformers==5.6.0 accelerate==1.11.0 peft==0.18.1 trl==0.24.0 datasets==4.0.0 torchdata==0.11.0 av<=16.0.0
    gradio<=5.50.0 tyro<0.9.0 einops fastapi fire hf-transfer matplotlib modelscope numpy omegaconf packaging pandas
    protobuf pydantic pyyaml safetensors scipy sentencepiece sse-starlette tiktoken uvicorn
"""
VERSION = "0.9.5"
INSTALL = [
    ["torch==2.13.0"],
    REQUIREMENTS.split(),
    ["--no-deps", "llamafactory==0.9.5"],
    ["setuptools", "wheel", "ninja", "hjson", "msgpack", "py-cpuinfo"],
    ["--no-deps", "--no-build-isolation", "deepspeed==0.18.4"],  # with DS_ACCELERATOR=cpu
]

REFUSED = {"fsdp2": "FSDP was asked for, but every process holds whole parameters: on CPUs accelerate silently turns"}

OPTIMIZER = {"optim_args": f"betas={BETAS},type=switch_parameter_wise"}
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "DS_ACCELERATOR": "cpu",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def command(material: Path, output: Path, layout: str) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the environment variables of a run that leaves its files in ``output / "run"``.

    The commands are found by PATH, which must begin with the environment's ``bin``.

    Args:
        material: the directory of ``model/`` and ``alpaca.jsonl``.
        output: a directory for the configs and the run.
        layout: ``one``, ``ddp``, ``fsdp2``, ``zero2`` or ``zero3``, or one of these after ``v1_``.
    """
    output.mkdir(parents=True, exist_ok=True)
    second, kind = layout.startswith("v1_"), layout.removeprefix("v1_")
    settings = v1(material, output, kind) if second else v0(material, output, kind)
    config = write(output / "config.yaml", settings)
    variables = ENVIRONMENT | {
        "PYTHONPATH": str(stand_ins(output / "site", second)),
        "TORCH_EXTENSIONS_DIR": str(output.parent / "extensions"),
    }
    if second:
        variables["USE_V1"] = "1"
    if kind == "fsdp2" and not second:
        launch = ["accelerate", "launch", "--config_file", str(RECIPES / "fsdp2.yaml")]
        return [*launch, "-m", "llamafactory.launcher", config], variables
    if kind != "one":
        variables |= {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    return ["llamafactory-cli", "train", config], variables


def v0(material: Path, output: Path, kind: str) -> dict[str, Any]:
    """Return the config of the first generation, which trains with Trainer."""
    write(output / "dataset_info.json", {"counting": {"file_name": str(material / "alpaca.jsonl")}})
    settings = {
        "model_name_or_path": str(material / "model"),
        "dataset_dir": str(output),
        "dataset": "counting",
        "template": "empty",
        "cutoff_len": 64,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 4,
        "lora_dropout": 0.0,
        "optim": "gap_adamw",
        **OPTIMIZER,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": 1,
        "max_steps": 8,
        "logging_steps": 2,
        "save_steps": 4,
        "report_to": "none",
        "output_dir": str(output / "run"),
    }
    if kind in ("one", "ddp"):
        return settings | {"use_cpu": True}
    settings["ddp_backend"] = "gloo"
    return settings | {"deepspeed": zero(output, kind)} if kind.startswith("zero") else settings


def v1(material: Path, output: Path, kind: str) -> dict[str, Any]:
    """Return the config of the second generation, which has a loop of its own."""
    data = {"path": str(material / "alpaca.jsonl"), "source": "local", "converter": "alpaca"}
    settings = {
        "model": str(material / "model"),
        "template": "chatml",
        "train_dataset": write(output / "data.yaml", {"counting": data}),
        "peft_config": {"name": "lora", "r": 4, "lora_dropout": 0.0},
        "optim_config": {"name": "gap_adamw", **OPTIMIZER},
        "learning_rate": LEARNING_RATE,
        "max_grad_norm": 1e9,  # it always clips
        "bf16": False,
        "enable_activation_checkpointing": False,
        "micro_batch_size": 1,
        "batching_workers": 0,
        "cutoff_len": 64,
        "max_steps": 8,
        "logging_steps": 2,
        "save_steps": 4,
        "output_dir": str(output / "run"),
    }
    if kind.startswith("zero"):
        settings["dist_config"] = {"name": "deepspeed", "config_file": zero(output, kind)}
    if kind == "fsdp2":
        settings["dist_config"] = {"name": "fsdp2"}
    return settings


def zero(output: Path, kind: str) -> str:
    """Write DeepSpeed's config; return its path."""
    config = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "bf16": {"enabled": False},  # v1 trains in bfloat16 if this is left out
        "zero_optimization": {"stage": int(kind[-1]), "stage3_gather_16bit_weights_on_model_save": kind == "zero3"},
    }
    return write(output / "deepspeed.json", config)


def stand_ins(site: Path, synchronize_nothing: bool) -> Path:
    """Write what is missing on CPUs, to be imported first."""
    site.mkdir(exist_ok=True)
    (site / "torchaudio.py").write_text('"""Imported for every model, used for audio only."""\n')
    if synchronize_nothing:
        (site / "sitecustomize.py").write_text("import torch\n\ntorch.accelerator.synchronize = lambda *_: None\n")
    return site


def write(path: Path, content: dict[str, Any]) -> str:
    """Write JSON, which is YAML, too; return the path."""
    path.write_text(json.dumps(content, indent=2))
    return str(path)
