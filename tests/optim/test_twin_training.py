"""Choices equal the reference twin's at every one of 300 steps of training on the optimizer's own trajectory."""

import pytest
import torch

from .twins import MOMENTUM, Twins, betas, byte_model, train_bytes

STEPS = 300


def train(family: str, dtype: torch.dtype = torch.float32, **options) -> Twins:
    model = byte_model(dtype)
    named = list(model.named_parameters())
    decay = [p for n, p in named if "norm" not in n]
    rest = [p for n, p in named if "norm" in n]
    twins = Twins(family, [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], **options)
    for _ in train_bytes(model, STEPS):
        twins.step()
    assert len(twins.flat_choices()) > 1
    return twins


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "options",
    [
        {"type": "switch_parameter_wise", "betas": betas(2, False), "decoupled_weight_decay": True},
        {"type": "switch_parameter_wise", "betas": betas(5, True)},
        {"type": "switch", "betas": betas(3, False), "J_ema": 0.9, "decoupled_weight_decay": True},
        {"type": "switch", "betas": betas(2, True), "lr_modulation": True, "hysteresis_threshold": 2},
    ],
    ids=["llm-lora", "wise-K5-L2", "small-batch", "switch-modulated"],
)
def test_adam(options, dtype):
    train("adam", dtype, lr=3e-3, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"type": "switch", "momentum": MOMENTUM[3]},
        {"type": "switch_parameter_wise", "momentum": MOMENTUM[2], "nesterov": True},
    ],
    ids=["baseline", "wise-nesterov"],
)
def test_sgdm(options):
    train("sgdm", lr=0.05, **options)
