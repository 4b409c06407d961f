"""Fuzzing options: the text of ``optim_args``, and what the classes are called with."""

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

import gap_hf
from gap_hf.optim.batch_size import KnowsBatchSize
from gap_hf.trainer.presets import PRESETS
from gap_hf.trainer.registry import optimizer_and_options

from .mutate import mutated, text

TEXTS = [
    "betas=0.8:0.99",
    "betas=0.8/0.999:0.99/0.9999,type=switch",
    "betas=0.5:0.9:0.99,type=switch,J_ema=0.9,hysteresis_threshold=3",
    "type=default,betas=0.9,foreach=true",
    "lr_modulation=true,soft_reset=0.5,second_order_momentum_reset_mode=square,eps=1e-6",
    "state_dtype=bfloat16,fused=false",
    "state_dtype=8bit",
    "decoupled_weight_decay=false,maximize=true,fused=true",
    "momentum=0.5:0.9:0.99,nesterov=true",
    "type=mix,weights=0.3:0.7,betas=0:0.9",
    "type=mix_parameter_wise,weights=score",
    "type=random,seed=7,lr_modulation=power",
    "momentum=0.5:0.9,type=switch,lr_modulation=dc",
    "momentum=0.9,type=default,dampening=0.1",
    "betas=0.05:0.1/0.99:0.5,type=switch,dampening=0.5",
    "momentum=0.9:0.99,batch_size=16,alpha=0.99,type=mix",
    "momentum=0.5:0.9,update_interval=10,max_axis=1024,damping=1e-4,type=switch",
    "candidates=adamw:sgd/momentum/0.9/lr_scale/10,score=decrease,type=mix",
]

CALLS: list[tuple[type, dict[str, Any]]] = [
    (
        gap_hf.GapAdamW,
        {
            "lr": 1e-3, "betas": [(0.8, 0.999), (0.99, 0.999)], "eps": 1e-8, "weight_decay": 0.01, "type": "switch",
            "decoupled_weight_decay": True, "lr_modulation": False, "soft_reset": 0.9, "hysteresis_threshold": 3,
            "second_order_momentum_reset_mode": "none", "J_ema": 0.1, "foreach": None, "fused": None,
            "capturable": False, "state_dtype": None, "maximize": False, "differentiable": False,
        },
    ),
    (gap_hf.GapAdamW, {"betas": [(0.8, 0.99), (0.9, 0.999)], "state_dtype": "float32"}),
    (gap_hf.Adam, {"lr": torch.tensor(1e-3), "betas": (0.9, 0.999), "type": "default", "foreach": False}),
    (gap_hf.SGDM, {"momentum": [0.5, 0.9], "type": "switch_parameter_wise", "nesterov": True, "dampening": 0.0}),
    (gap_hf.SGDM, {"momentum": [0.0, 0.9], "type": "mix", "weights": [0.3, 0.7], "seed": 0, "lr_modulation": "dc"}),
    (gap_hf.SGDM, {"momentum": 0.9, "type": "default", "weight_decay": 0.1, "maximize": True, "fused": None}),
    (gap_hf.Adams, {"betas": [(0.5, 0.9), (0.95, 0.9)], "type": "switch_parameter_wise"}),
    (gap_hf.AdaiW, {"betas": [(0.05, 0.99), (0.2, 0.99)], "type": "switch", "dampening": 0.5, "eps": 1e-3}),
    (gap_hf.RFRMSprop, {"momentum": [0.0, 0.9], "batch_size": 16, "alpha": 0.99, "eps": 1e-4, "type": "mix"}),
    (gap_hf.RFAdamW, {"betas": (0.9, 0.99), "batch_size": "told", "eps": 1e-4}),
    (
        gap_hf.IFShampoo,
        {
            "momentum": [0.0, 0.9], "batch_size": 16, "type": "switch", "beta2": 0.01, "alpha2": 0.5, "damping": 1e-3,
            "update_interval": 2, "max_axis": 4, "weight_decay": 0.1, "fused": None, "state_dtype": "bfloat16",
        },
    ),
    (gap_hf.GapOver, {"candidates": ["adamw", {"name": "sgd", "momentum": 0.9, "lr_scale": 10.0}], "score": "rms"}),
]  # fmt: skip

TORCHS_OWN = (
    "params argument given to the optimizer should be an iterable",
    "object is not iterable",
    "optimizer can only optimize Tensors",
    "param_group must be a dict",
    "optimizer parameters need to be organized in ordered collections",
)
"""What torch's TypeErrors say of things that are no parameters."""

STEPS_OWN = (
    "fused=True can't be done: there is none for cpu",
    "capturable=True needs the fused kernel on an accelerator",
    "value cannot be converted to type float without overflow",
)
"""What a step may say after options that were right by themselves: of those for other devices, and of huge numbers."""


def prepare(seed: int, out: Path) -> Callable[[int], bool]:
    """A function that tries the input of a number, and says whether it was accepted."""
    logging.disable(logging.WARNING)
    args = TrainingArguments(output_dir=str(out), use_cpu=True, report_to="none")

    def attempt(n: int) -> bool:
        rng = random.Random(f"options {seed} {n}")
        try:
            optimizer = from_text(rng, args) if n % 2 else from_values(rng)
        except ValueError:
            return False
        except TypeError as error:
            if any(words in str(error) for words in TORCHS_OWN):
                return False
            raise
        step(optimizer)
        return True

    return attempt


def from_text(rng: random.Random, args: TrainingArguments) -> torch.optim.Optimizer:
    """By the way that Trainer goes."""
    parts = rng.choice(TEXTS).split(",")
    if rng.random() < 0.3:
        parts += rng.choice(TEXTS).split(",")
        rng.shuffle(parts)
    args.optim_args = ",".join(parts)
    for _ in range(rng.choice([0, 1, 1, 2])):
        args.optim_args = text(args.optim_args, rng)
    cls, options = optimizer_and_options(rng.choice(list(PRESETS)), args)
    return cls(list(parameters()), **options)


def from_values(rng: random.Random) -> torch.optim.Optimizer:
    """By the constructor, with the options given to it or in groups."""
    cls, options = rng.choice(CALLS)
    p, q = parameters()
    if rng.random() < 0.5:
        changed = rng.sample(list(options), rng.randint(1, 2))
        return cls([p, q], **{key: mutated(value, rng) if key in changed else value for key, value in options.items()})
    group = {**mutated(options, rng, whole=False), "params": [q]}
    if rng.random() < 0.1:
        group["params"] = rng.choice(
            [q, p, [p], [q, q], [], None, "params", [None], [q.detach() * 1], {q}, torch.ones(2), 1]
        )
    return cls([{"params": [p]}, group], **options)


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]


def step(optimizer: torch.optim.Optimizer) -> None:
    """Two steps, one of them with a gradient that is not finite."""
    for value in (0.1, float("nan")):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.full_like(p, value)
        if isinstance(optimizer, KnowsBatchSize):
            optimizer.tell_batch_size(4)
        try:
            optimizer.step()
        except RuntimeError as error:
            if not any(words in str(error) for words in STEPS_OWN):
                raise
