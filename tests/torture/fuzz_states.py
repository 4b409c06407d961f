"""Fuzzing saved states: what is refused changes nothing, and what is accepted can be stepped."""

import copy
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gap_hf

from ..optim.twins import KERNELS
from .mutate import mutated

SWITCH, WISE = {"type": "switch", "J_ema": 0.3, "hysteresis_threshold": 1}, {"type": "switch_parameter_wise"}
BETAS = {"betas": [(0.5, 0.9), (0.9, 0.99)]}
BUILDS: list[tuple[type, dict[str, Any]]] = [
    (gap_hf.GapAdamW, {**SWITCH, **BETAS}),
    (gap_hf.GapAdamW, {**WISE, **BETAS, "hysteresis_threshold": 2}),
    (gap_hf.Adam, {**WISE, "betas": [(0.5, 0.9), (0.9, 0.9), (0.99, 0.9)]}),
    (gap_hf.Adam, {"type": "default", "betas": (0.9, 0.99)}),
    (gap_hf.GapAdamW, {"type": "mix"}),
    (gap_hf.Adam, {"type": "mix_parameter_wise", "weights": "score", **BETAS, "hysteresis_threshold": 1}),
    (gap_hf.SGDM, {**SWITCH, "type": "mix", "weights": "score", "momentum": [0.0, 0.9]}),
    (gap_hf.SGDM, {**WISE, "type": "random_parameter_wise", "momentum": [0.5, 0.9]}),
    (gap_hf.SGDM, {**SWITCH, "momentum": [0.5, 0.9]}),
    (gap_hf.SGDM, {**WISE, "momentum": [0.5, 0.9, 0.99], "nesterov": True}),
    (gap_hf.SGDM, {"type": "default", "momentum": 0.9}),
    (gap_hf.GapAdamW, {**WISE, **BETAS, "state_dtype": "bfloat16"}),
    (gap_hf.GapAdamW, {**WISE, **BETAS, "state_dtype": "8bit"}),
]


TOO_LARGE = "value cannot be converted to type float without overflow"
"""What torch says in a step with, say, a weight decay of 1e300."""


class Subject:
    """An optimizer that has taken a few steps.

    Attributes:
        saved: its ``state_dict()``.
        before: ``bits`` of it.
    """

    def __init__(self, cls: type, options: dict[str, Any], kernel: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = [(3, 2), (2,), ()]
        self.params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        groups = [{"params": self.params[:1], "weight_decay": 0.1}, {"params": self.params[1:], "lr": 0.02}]
        # what is done tensor by tensor has no other kernels
        self.optimizer = cls(groups, lr=0.01, **options, **kernel)
        for _ in range(3):
            for p in self.params:
                p.grad = torch.randn(p.shape, generator=generator)
            self.optimizer.step()
        self.saved = copy.deepcopy(self.optimizer.state_dict())
        self.values = [p.detach().clone() for p in self.params]
        self.before = bits(self.optimizer)

    def restore(self) -> None:
        """As it was after its steps; a state that was accepted may have made its options others."""
        for p, value in zip(self.params, self.values, strict=True):
            p.data, p.grad = value.clone(), None
        self.optimizer.load_state_dict(self.saved)


def bits(optimizer: torch.optim.Optimizer) -> Any:
    """All of an optimizer, and of its parameters, bit for bit."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    states = [{key: raw(value) for key, value in optimizer.state.get(p, {}).items()} for p in params]
    groups = [{key: repr(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    places = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    others = [repr(key) for key in optimizer.state if not isinstance(key, Tensor)]
    return [raw(p) for p in params], states, groups, places, others, repr(optimizer.defaults)


def raw(value: Any) -> Any:
    """The bytes of a tensor, with all that tells it from others."""
    if not isinstance(value, Tensor):
        return repr(value)
    if type(value) not in (Tensor, nn.Parameter):  # 8-bit state
        value = value.dequantize()
    value = value.detach()
    return value.dtype, value.shape, value.stride(), value.reshape(-1).view(torch.uint8).numpy().tobytes()


def prepare(seed: int, out: Path) -> Callable[[int], bool]:
    """A function that tries the input of a number, and says whether it was accepted."""
    logging.disable(logging.WARNING)
    subjects = [Subject(cls, options, kernel) for cls, options in BUILDS for kernel in KERNELS.values()]

    def attempt(n: int) -> bool:
        rng = random.Random(f"states {seed} {n}")
        index = rng.randrange(len(subjects))
        subject = subjects[index]
        # sometimes the state of an optimizer of another kind
        other = subject if rng.random() < 0.9 else rng.choice(subjects)
        state_dict = mutated(other.saved, rng) if other is subject or rng.random() < 0.5 else copy.deepcopy(other.saved)
        try:
            subject.optimizer.load_state_dict(state_dict)
        except ValueError:
            assert bits(subject.optimizer) == subject.before, "a load that failed has changed the optimizer"
            return False
        try:
            step_and_save(subject, rng)
        finally:
            subjects[index] = Subject(*BUILDS[index // len(KERNELS)], list(KERNELS.values())[index % len(KERNELS)])
        return True

    return attempt


def step_and_save(subject: Subject, rng: random.Random) -> None:
    """Steps with good and bad gradients after a state was accepted; what is saved then loads again."""
    for kind in ("good", rng.choice(["nan", "missing", "good"])):
        for p in subject.params:
            p.grad = torch.full_like(p, float("nan") if kind == "nan" else rng.uniform(-1, 1))
        if kind == "missing":
            subject.params[rng.randrange(3)].grad = None
        try:
            subject.optimizer.step()
        except RuntimeError as error:
            if TOO_LARGE not in str(error):
                raise
    saved = copy.deepcopy(subject.optimizer.state_dict())
    for group in saved["param_groups"]:
        json.dumps({key: value for key, value in group.items() if key != "params"}, default=str)
    if all(torch.isfinite(p).all() for p in subject.params):
        subject.optimizer.load_state_dict(saved)
