"""A tiny Llama, something for it to learn, and a Trainer around them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "tests" / "scripts"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/configs/ddp_cpu.yaml"]
"""Starts two processes."""

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None,
    reason="DeepSpeed builds its communication on CPUs with a C++ compiler at first use",
)


def tiny_model(vocab: int = 32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def tiny_data(rows: int = 256, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """Counting sequences with noise."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, 32, (rows, 1), generator=generator)
    ids = (first + torch.arange(12) + torch.randint(0, 4, (rows, 12), generator=generator)) % 32
    return [{"input_ids": row, "labels": row} for row in ids]


def arguments(output_dir: Path, **given: Any) -> TrainingArguments:
    defaults = {
        "optim": "gap_adamw",
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.02,
        "max_steps": 8,
        "logging_steps": 4,
    }
    return TrainingArguments(output_dir=str(output_dir), **{**defaults, **given})


def tiny_trainer(output_dir: Path, callbacks: list[Any] | None = None, seed: int = 1, **given: Any) -> Trainer:
    """A Trainer on the tiny model; ``given`` are TrainingArguments."""
    args = arguments(output_dir, **given)
    return Trainer(model=tiny_model(), args=args, train_dataset=tiny_data(seed=seed), callbacks=callbacks)


def start(command: list[Any], cwd: Path = ROOT, **environment: str) -> subprocess.Popen:
    """Start a command in a process group of its own."""
    # beside the interpreter lies ninja, which DeepSpeed's build looks for
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PATH": path}
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **offline, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stop(process: subprocess.Popen) -> None:
    """End it and everything it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)  # torchrun's workers are in groups of their own: it ends them
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=40)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def run(command: list[Any], timeout: float = 240, **given: Any) -> subprocess.CompletedProcess:
    """Run a command to its end; where that takes too long, stop it and fail."""
    process = start(command, **given)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        stop(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
