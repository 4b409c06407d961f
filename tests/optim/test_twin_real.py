"""Choices equal the reference twin's at every one of 300 steps, on the gradients of a model that learns real text."""

import inspect
import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from .twins import MOMENTUM, Twins, betas

STEPS = 300


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    """Source code and prose of the standard library's json package, as bytes."""
    source = inspect.getsource(json) + inspect.getsource(json.decoder) + inspect.getsource(json.encoder)
    return torch.tensor(list(source.encode()), dtype=torch.long)


def model(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=16,
        intermediate_size=35,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).to(dtype)


def train(text: torch.Tensor, family: str, dtype: torch.dtype = torch.float32, **options) -> Twins:
    net = model(dtype)
    named = list(net.named_parameters())
    decay = [p for n, p in named if "norm" not in n]
    rest = [p for n, p in named if "norm" in n]
    twins = Twins(family, [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], **options)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(STEPS):
        starts = torch.randint(len(text) - 33, (4, 1), generator=generator)
        ids = text[starts + torch.arange(32)]
        loss = net(input_ids=ids, labels=ids).loss
        net.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        twins.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20]), "the model must learn"
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
def test_adam(text, options, dtype):
    twins = train(text, "adam", dtype, lr=3e-3, **options)
    assert len(twins.flat_choices()) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"type": "switch", "momentum": MOMENTUM[3]},
        {"type": "switch_parameter_wise", "momentum": MOMENTUM[2], "nesterov": True},
    ],
    ids=["baseline", "wise-nesterov"],
)
def test_sgdm(text, options):
    twins = train(text, "sgdm", lr=0.05, **options)
    assert len(twins.flat_choices()) > 1
