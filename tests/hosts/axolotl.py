"""axolotl 0.19.0: what to install, and the command line of a small LoRA fine-tune by ``gap_adamw`` in each layout."""

import json
from pathlib import Path
from typing import Any

from .material import BETAS, LEARNING_RATE

ROOT = Path(__file__).parents[2]

REQUIREMENTS = """
    packaging==26.0 huggingface_hub==1.17.0 peft==0.20.0 tokenizers==0.23.1 transformers==5.16.1
    accelerate==1.13.0 datasets==4.8.4 trl==1.9.0 hf_xet==1.4.3 kernels<0.17.0,>=0.16.0 trackio==0.19.0
    typing-extensions==4.15.0 optimum==1.16.2 hf_transfer sentencepiece gradio==6.10.0 modal==1.3.0.post1
    pydantic==2.12.5 addict fire PyYAML==6.0.3 requests wandb einops colorama numba<1.0,>=0.63.1
    numpy<3.0,>=2.1 typer==0.25.1 evaluate==0.4.1 scipy art tensorboard python-dotenv==1.0.1 s3fs==2025.10.0
    gcsfs==2025.10.0 adlfs==2026.2.0 ocifs==1.3.2 zstandard==0.22.0 fastcore lm_eval==0.4.11
    langdetect==1.0.9 immutabledict==4.2.0 antlr4-python3-runtime==4.13.2 schedulefree==1.4.1
    openenv-core==0.1.0 axolotl-contribs-lgpl==0.0.7 axolotl-contribs-mit==0.0.6 posthog==6.7.11
    mistral-common==1.11.5 bitsandbytes==0.50.2 torchao==0.17.0
"""
"""What axolotl 0.19.0 requires beside torch, without five packages for GPUs that it imports only to use them: xformers,
liger-kernel, fla-core, flash-linear-attention and nvidia-ml-py. (It always imports triton.)
"""

VERSION = "0.19.0"
INSTALL: list[list[str]] = [
    ["torch==2.13.0"],
    REQUIREMENTS.split(),
    ["--no-deps", "axolotl==0.19.0", "triton==3.9.0"],
    ["hjson", "msgpack", "ninja", "py-cpuinfo", "setuptools<82", "wheel"],
    ["--no-deps", "--no-build-isolation", "deepspeed==0.18.9"],  # with DS_ACCELERATOR=cpu
]
"""pip's arguments, in order."""

REFUSED: dict[str, str] = {}
"""Layouts that can't run, and what their user reads."""

SETTINGS: dict[str, Any] = {
    "plugins": ["gap_hf.integrations.axolotl.GapPlugin", "tests.hosts.axolotl_on_cpu.Seeded"],
    "optimizer": "gap_adamw",
    "optim_args": {"betas": [float(beta) for beta in BETAS.split(":")], "type": "switch_parameter_wise"},
    "val_set_size": 0,
    "sequence_len": 64,
    "adapter": "lora",
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "lora_target_linear": True,
    # axolotl turns these on by itself, and they are written in Triton
    **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel"), False),
    "learning_rate": LEARNING_RATE,
    "lr_scheduler": "constant",
    "weight_decay": 0.01,
    "max_grad_norm": 0,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "max_steps": 8,
    "num_epochs": 1,
    "logging_steps": 1,
    "save_steps": 4,
    "seed": 42,  # without it axolotl shuffles the data anew in every run
    **dict.fromkeys(("bf16", "fp16", "tf32"), False),
}

FSDP2 = {
    "fsdp_version": 2,
    "fsdp_config": {
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
        "state_dict_type": "FULL_STATE_DICT",
        "reshard_after_forward": True,
    },
}

ON_CPUS = {
    "HF_HUB_OFFLINE": "1",
    "AXOLOTL_DO_NOT_TRACK": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}


def command(material: Path, output: Path, layout: str) -> tuple[list[str], dict[str, str]]:
    """Return the command line for ``layout``, and what its environment needs besides; write its files to ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    settings = {
        **SETTINGS,
        "base_model": str(material / "model"),
        "datasets": [{"path": str(material / "alpaca.jsonl"), "ds_type": "json", "type": "alpaca"}],
        "dataset_prepared_path": str(output / "prepared"),
        "output_dir": str(output),
    }
    environment = dict(ON_CPUS)
    line = ["axolotl", "train", str(output / "config.yaml")]
    if layout == "one":
        settings["micro_batch_size"] *= 2
    else:
        line += ["--launcher", "accelerate", "--", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    if layout in ("ddp", "zero2"):
        settings["max_memory"] = {"cpu": "1GiB"}  # or axolotl puts each process's model on the GPU of its local rank
    if layout == "ddp":
        environment["ACCELERATE_USE_CPU"] = "true"
    elif layout != "one":
        settings["plugins"] = [*settings["plugins"], "tests.hosts.axolotl_on_cpu.OnCpu"]
        environment["ACCELERATE_TORCH_DEVICE"] = "cpu"
    if layout == "fsdp2":
        settings |= FSDP2
    elif layout in ("zero2", "zero3"):
        settings["deepspeed"] = str(output / "deepspeed.json")
        (output / "deepspeed.json").write_text(json.dumps(deepspeed(int(layout[-1]))))
        environment["DS_ACCELERATOR"] = "cpu"
    (output / "config.yaml").write_text(json.dumps(settings, indent=2))  # which is YAML, too
    return line, environment


def deepspeed(stage: int) -> dict[str, Any]:
    """Return a plain ZeRO config, as in axolotl's own examples."""
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    return {"zero_optimization": {"stage": stage}, **dict.fromkeys(sizes, "auto")}
