"""An optimizer and its reference twin side by side, on the same gradients."""

import functools
import inspect
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import gap_hf
from gap_hf.optim.kernels import fused_cpu
from gap_hf.optim.reference.adam import ReferenceAdam
from gap_hf.optim.reference.sgdm import ReferenceSGDM

KERNELS: dict[str, dict[str, Any]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
}
if isinstance(fused_cpu.load(), fused_cpu.Unavailable):  # no compiler here
    del KERNELS["fused"]
needs_fused = pytest.mark.skipif("fused" not in KERNELS, reason="no C compiler here")

ADAM_BETA1 = {1: [0.9], 2: [0.8, 0.99], 3: [0.5, 0.9, 0.99], 5: [0.0, 0.5, 0.8, 0.9, 0.99]}
MOMENTUM = {1: [0.9], 2: [0.9, 0.5], 3: [0.5, 0.9, 0.99], 5: [0.0, 0.5, 0.8, 0.9, 0.99]}


def betas(K: int, distinct: bool) -> list[tuple[float, float]]:
    """K candidates that share beta2, or use three different ones."""
    return [(b1, [0.999, 0.99, 0.95][j % 3] if distinct else 0.999) for j, b1 in enumerate(ADAM_BETA1[K])]


def mirrored(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same groups with parameters of their own."""
    return [{**g, "params": [p.detach().clone().requires_grad_() for p in g["params"]]} for g in groups]


class Twins:
    """Steps the reference and kernels, and asserts after each step that they chose alike and moved alike.

    ``gap``, of the first kernel, owns the given parameters. All kernels take part with three candidates, and one with
    other numbers of them: the tests have some hundred thousand steps. In low precision only the loop takes part: the
    fused kernel, like torch's, rounds once where the loop rounds after every operation; foreach rounds otherwise again.
    """

    def __init__(self, family: str, groups: list[dict[str, Any]], **options: Any) -> None:
        cls, reference = {"adam": (gap_hf.Adam, ReferenceAdam), "sgdm": (gap_hf.SGDM, ReferenceSGDM)}[family]
        self.params = [p for g in groups for p in g["params"]]
        self.exact = all(p.dtype == torch.float32 for p in self.params)
        kernels = [flags for name, flags in KERNELS.items() if self.exact or name == "loop"]
        if len({**groups[0], **options}.get("betas" if family == "adam" else "momentum", ())) != 3:
            del kernels[1:]
        self.gap, *others = [
            cls(mine, **options, **flags)
            for mine, flags in zip([groups, *map(mirrored, [groups] * (len(kernels) - 1))], kernels, strict=True)
        ]
        self.reference = reference(mirrored(groups), **options)
        self.others = [*others, self.reference]
        self.history: list[Any] = []

    def step(self) -> None:
        copies = [[q for group in other.param_groups for q in group["params"]] for other in self.others]
        for mirrors in copies:
            for p, q in zip(self.params, mirrors, strict=True):
                q.data.copy_(p.data)  # all start each step from the same place: rounding must not feed back
                q.grad = None if p.grad is None else p.grad.clone()
        for optimizer in (self.gap, *self.others):
            optimizer.step()
        chosen = [group["last_choice"] for group in self.gap.param_groups]
        for other, mirrors in zip(self.others, copies, strict=True):
            for mine, theirs in zip(self.gap.param_groups, other.param_groups, strict=True):
                if "last_weights" in mine:  # sums are taken in another order
                    weights = torch.tensor([mine["last_weights"], theirs["last_weights"]])
                    rtol, atol = (1e-4, 1e-5) if self.exact else (1e-2, 1e-3)
                    torch.testing.assert_close(weights[0], weights[1], rtol=rtol, atol=atol)
            assert chosen == [group["last_choice"] for group in other.param_groups], f"step {len(self.history)}"
            for p, q in zip(self.params, mirrors, strict=True):
                rtol, atol = (1e-5, 1e-6) if p.dtype == torch.float32 else (2e-2, 2e-2)
                torch.testing.assert_close(p, q, rtol=rtol, atol=atol, equal_nan=True)
        self.history.append([list(c) if isinstance(c, list) else c for c in chosen])

    def flat_choices(self) -> set[int]:
        """Every index that was ever chosen."""
        return {c for step in self.history for group in step for c in (group if isinstance(group, list) else [group])}


def random_gradients(params: list[Tensor], steps: int, seed: int = 0) -> Iterator[None]:
    """Set noisy gradients whose mean turns around every 40 steps: long and short memory each win at times, and right
    after a turn every memory points against the gradient."""
    generator = torch.Generator().manual_seed(seed)
    mean = [torch.randn(p.shape, generator=generator) for p in params]
    for t in range(steps):
        size = 1.0 if t // 40 % 2 == 0 else -0.3
        for p, m in zip(params, mean, strict=True):
            p.grad = (torch.randn(p.shape, generator=generator) * 0.5 + m * size).to(p.dtype)
        yield


@functools.cache
def text() -> Tensor:
    """Real text to learn: the source of the standard library's json package, as bytes."""
    source = inspect.getsource(json) + inspect.getsource(json.decoder) + inspect.getsource(json.encoder)
    return torch.tensor(list(source.encode()), dtype=torch.long)


def byte_model(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A language model of bytes with twelve parameters, small enough for thousands of steps."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=16,
        intermediate_size=35,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).to(dtype)


def train_bytes(model: LlamaForCausalLM, steps: int) -> Iterator[float]:
    """Backpropagate, clip, and yield the loss; the caller takes the step. Fails if the model does not learn."""
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        starts = torch.randint(len(text()) - 33, (4, 1), generator=generator)
        ids = text()[starts + torch.arange(32)]
        loss = model(input_ids=ids, labels=ids).loss
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        losses.append(loss.item())
        yield losses[-1]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20]), "the model must learn"


@functools.cache
def recorded_training(steps: int) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The first parameters of a real training run, and its gradients at every step."""
    model = byte_model()
    start = [p.detach().clone() for p in model.parameters()]
    adamw = torch.optim.AdamW(model.parameters(), lr=3e-3)
    gradients = []
    for _ in train_bytes(model, steps):
        gradients.append([p.grad.clone() for p in model.parameters()])
        adamw.step()
    return start, gradients
