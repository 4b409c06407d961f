"""ms-swift: the command that its users type, with ``--optimizer gap_adamw``."""

import json
from pathlib import Path

from .material import BETAS, LEARNING_RATE

VERSION = "4.6.0"
INSTALL = [
    ["torch==2.13.0", "wheel", "setuptools<81", "ninja"],
    ["ms-swift==4.6.0", "torch==2.13.0"],
    ["py-cpuinfo", "hjson", "msgpack", "einops", "hatchling"],
    ["--no-deps", "--no-build-isolation", "deepspeed==0.19.8"],
]
"""Arguments of ``pip install``, in this order; ``DS_ACCELERATOR=cpu`` is set meanwhile."""

PLUGIN = "import gap_hf.integrations.swift\n"

AS_ACCELERATORS = """import torch
from accelerate.state import DistributedType, PartialState

PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
"""
"""A plugin for tests. On CPUs accelerate turns FSDP into DDP, and transformers forgets ``ddp_backend`` where it is
given ``deepspeed``: each process would believe to be alone."""

FLAGS = {
    "one": [],
    "ddp": ["--use_cpu", "true", "--ddp_backend", "gloo"],
    "fsdp2": ["--fsdp", "fsdp2"],
    "zero2": ["--deepspeed", "zero2"],
    "zero3": ["--deepspeed", "zero3"],
}

REFUSED: dict[str, str] = {}
"""Layouts that can't run, with a pattern of the error that the user sees."""


def command(material: Path, output: Path, layout: str) -> tuple[list[str], dict[str, str]]:
    """Return a command line, and what it needs in the environment, for 8 steps of LoRA in float32."""
    files = output / "files"  # ms-swift copies its config to output_dir, and fails where that is the same file
    files.mkdir(parents=True, exist_ok=True)
    plugins = [files / "gap_plugin.py"]
    plugins[0].write_text(PLUGIN, encoding="utf-8")
    if layout in ("fsdp2", "zero2", "zero3"):
        plugins.append(files / "as_accelerators.py")
        plugins[1].write_text(AS_ACCELERATORS, encoding="utf-8")
    settings = {
        "model": str(material / "model"),
        "model_type": "llama",
        "template": "dummy",
        "use_hf": True,
        "check_model": False,
        "dataset": str(material / "chat.jsonl"),
        "max_length": 64,
        "tuner_type": "lora",
        "lora_rank": 4,
        "lora_dropout": 0,
        "torch_dtype": "float32",
        "fp16": False,  # float32 turns it on
        "bf16": False,
        "max_steps": 8,
        "optim_args": f"betas={BETAS},type=switch_parameter_wise",
        "learning_rate": LEARNING_RATE,
        "max_grad_norm": 0,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
        "save_steps": 4,
        "report_to": "none",
        "output_dir": str(output),
        "add_version": False,  # no folder "v0-date" in between
    }
    config = files / "sft.json"
    config.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    arguments = ["--external_plugins", *map(str, plugins), "--optimizer", "gap_adamw", *FLAGS[layout]]
    environment = {
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": str(output / "extensions"),
    }
    if layout != "one":
        environment["NPROC_PER_NODE"] = "2"
    return ["swift", "sft", str(config), *arguments], environment
