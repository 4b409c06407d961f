"""The run that is killed: Trainer over a tiny model, resumed as its users do it, with choices that change often.

It leaves, on every rank, a digest of each tensor and number of the parameters and of the optimizer.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from gap_hf.optim.find import find_gap_optimizer

from ..sharding.on_cpu import keep_full_state_where_it_is, take_gloo_for_an_accelerator

SAVE_EVERY = 8


def zero(stage: int) -> dict[str, str]:
    """What ``accelerate launch`` sets for DeepSpeed."""
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}


def fsdp(version: int) -> dict[str, Any]:
    """What Trainer is told for FSDP."""
    config = {"version": version, "transformer_layer_cls_to_wrap": ["Layer"], "cpu_ram_efficient_loading": False}
    return {"fsdp": True, "fsdp_config": {**config, "sync_module_states": False}}  # FSDP1's broadcast asks for a GPU


LAYOUTS: dict[str, tuple[int, dict[str, Any], dict[str, str]]] = {
    "single": (1, {"use_cpu": True}, {}),
    "ddp": (2, {"use_cpu": True}, {}),
    "fsdp1": (2, fsdp(1), {}),
    "fsdp2": (2, fsdp(2), {}),
    "zero1": (2, {"ddp_backend": "gloo"}, zero(1)),
    "zero2": (2, {"ddp_backend": "gloo"}, zero(2)),
    "zero3": (2, {"ddp_backend": "gloo"}, zero(3)),
}
"""Processes, TrainingArguments and environment."""

CANDIDATES = "betas=0.98:0.99:0.999,soft_reset=0.5"
MOMENTA = "momentum=0.98:0.99:0.999,soft_reset=0.5"
RUNS = {
    "switch": ("gap_adamw", f"type=switch,{CANDIDATES},hysteresis_threshold=1,J_ema=0.1", 0.3),
    "wise": ("gap_adamw", f"type=switch_parameter_wise,{CANDIDATES},hysteresis_threshold=2", 0.3),
    "in_8_bits": (
        "gap_adamw",
        f"type=switch_parameter_wise,{CANDIDATES},state_dtype=8bit,hysteresis_threshold=1",
        0.3,
    ),
    "adams": ("adams", f"type=switch_parameter_wise,{CANDIDATES},hysteresis_threshold=1", 0.3),
    "adai": ("adaiw", "type=switch_parameter_wise,betas=0.001:0.01:0.02,hysteresis_threshold=1", 0.01),
    "rf_adamw": ("rf_adamw", f"type=switch_parameter_wise,{CANDIDATES},hysteresis_threshold=1", 0.3),
    "rf_rmsprop": ("rf_rmsprop", f"type=switch_parameter_wise,{MOMENTA},hysteresis_threshold=1", 0.01),
    "if_shampoo": ("if_shampoo", f"type=switch_parameter_wise,{MOMENTA},hysteresis_threshold=1", 0.002),
    "over": (
        "gap_over",
        "type=switch,J_ema=0.1,candidates=adamw:lion/lr_scale/0.3:adabelief:ademamix/lr_scale/0.5",
        0.1,
    ),
}
"""``optim``, ``optim_args`` and learning rate: with these, choices change often."""


class Layer(nn.Module):
    """A layer whose dropout makes the generators' state count, too."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.linear(x))


class Regression(nn.Module):
    """Linear regression in three layers.

    At a high learning rate momentum carries it to and fro over the minimum, so that long and short memory win by turns.
    """

    def __init__(self, width: int = 12, dropout: float = 0.02) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, dropout) for _ in range(3))
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        for layer in self.layers:
            x = layer(x)
        return {"loss": nn.functional.mse_loss(self.head(x), labels)}


def rows(count: int = 512, width: int = 12) -> list[dict[str, Tensor]]:
    """Inputs, and a noisy linear function of them."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, width, generator=generator)
    labels = x @ torch.randn(width, 2, generator=generator) + 0.1 * torch.randn(count, 2, generator=generator)
    return [{"x": a, "labels": b} for a, b in zip(x, labels, strict=True)]


def train(layout: str, choose: str, steps: int, output: Path) -> None:
    """Train up to ``steps``, from the last checkpoint if there is one, and write ``digest-rankR.json``."""
    if layout.startswith("fsdp"):
        take_gloo_for_an_accelerator()
        keep_full_state_where_it_is()
    world, given, environment = LAYOUTS[layout]
    os.environ |= environment
    optim, optim_args, lr = RUNS[choose]
    args = TrainingArguments(
        output_dir=str(output),
        optim=optim,
        optim_args=optim_args,
        max_steps=steps,
        save_steps=SAVE_EVERY,
        logging_steps=5,
        learning_rate=lr,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        per_device_train_batch_size=4,
        report_to="none",
        disable_tqdm=True,
        **given,
    )
    assert args.world_size == world
    torch.manual_seed(0)
    trainer = Trainer(model=Regression(), args=args, train_dataset=rows())
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(output)) is not None)
    (output / f"digest-rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(digest(trainer)))


def digest(trainer: Trainer) -> dict[str, str]:
    """Everything that this rank holds of the parameters and of the optimizer's state, each under its name."""
    found: dict[str, str] = {}
    for name, p in trainer.model.named_parameters():
        found[f"parameter {name}"] = bits(getattr(p, "ds_tensor", p))
    optimizer = find_gap_optimizer(trainer.optimizer)
    for g, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key != "params":
                found[f"group {g}: {key}"] = json.dumps(value)  # in which a tuple is a list
        for i, p in enumerate(group["params"]):
            found[f"group {g}: parameter {i}"] = bits(p)
            for key, value in optimizer.state.get(p, {}).items():
                found[f"group {g}: {key} of parameter {i}"] = bits(value)
    return found


def bits(tensor: Tensor) -> str:
    """A hash of this rank's part."""
    tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
