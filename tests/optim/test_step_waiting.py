"""Outside of the kernels nothing in a step looks at a value: on an accelerator each look would wait for the device."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import gap_hf
from gap_hf.optim import state
from gap_hf.optim.kernels import deal
from gap_hf.optim.kernels.foreach import Loop

from .twins import random_gradients

LOOKS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "cpu", "numpy", "nonzero")
OPTIMIZERS = {
    "adamw-switch": (gap_hf.GapAdamW, {"betas": [(0.8, 0.99), (0.99, 0.999)], "type": "switch", "J_ema": 0.5}),
    "adamw-wise": (gap_hf.GapAdamW, {"betas": [(0.8, 0.999), (0.99, 0.999)], "type": "switch_parameter_wise"}),
    "sgdm-switch": (gap_hf.SGDM, {"momentum": [0.5, 0.9], "type": "switch", "hysteresis_threshold": 1}),
    "adamw-mix": (gap_hf.GapAdamW, {"type": "mix"}),
    "adamw-mix-score": (gap_hf.GapAdamW, {"type": "mix", "weights": "score", "J_ema": 0.5}),
    "sgdm-mix-score-wise": (
        gap_hf.SGDM,
        {"type": "mix_parameter_wise", "weights": "score", "momentum": [0.0, 0.9], "hysteresis_threshold": 1},
    ),
    "adamw-random": (gap_hf.GapAdamW, {"type": "random", "seed": 5}),
    "sgdm-random-wise": (gap_hf.SGDM, {"type": "random_parameter_wise", "momentum": [0.5, 0.9]}),
    "adamw-first": (gap_hf.GapAdamW, {"type": "first"}),
}


class Watch:
    """Counts looks at tensors, outside of ``allowed``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self.watching = False
        for name in LOOKS:
            monkeypatch.setattr(Tensor, name, self.watched(name, getattr(Tensor, name)))

    def watched(self, name: str, look: Any) -> Any:
        def looked(*args: Any, **kwargs: Any) -> Any:
            if self.watching:
                self.seen.append(name)
            return look(*args, **kwargs)

        return looked

    @contextlib.contextmanager
    def set(self, watching: bool) -> Iterator[None]:
        before, self.watching = self.watching, watching
        yield
        self.watching = before


@pytest.fixture
def watch(monkeypatch):
    """Stands for a kernel that takes choices on the device; what it does itself is allowed."""
    watch = Watch(monkeypatch)

    class Far(Loop):
        on_device = True

        def tick(self, work):
            with watch.set(False):
                super().tick(work)

        def observe(self, work, answers):
            with watch.set(False):
                return super().observe(work, answers)

        def apply(self, work, answers, choices, resets):
            assert choices.dtype == torch.int64
            assert choices.shape == resets.shape == (len(work.values),)
            with watch.set(False):
                super().apply(work, answers, choices.tolist(), resets.tolist())

        def mix(self, work, answers, weights, resets):
            assert weights.dtype == torch.float64
            assert weights.shape == (len(work.values), 2)
            assert resets.shape == (len(work.values),)
            with watch.set(False):
                super().mix(work, answers, weights.tolist(), resets.tolist())

        def step_constant(self, work, weights):
            with watch.set(False):
                Loop(self.family).step_constant(work, weights)

    for module in (state, deal):
        monkeypatch.setattr(module, "pick", lambda *args: Far)
    return watch


DECIDED = ("last_choice", "last_weights", "negative_steps", "draws", "J_bar")


def kept_by(optimizer: Any) -> list[dict[str, int]]:
    """The addresses of what the groups keep on the device."""
    return [{key: value.data_ptr() for key, value in group._kept.items()} for group in optimizer.param_groups]


def train(name: str, watch: Watch | None = None, **options: Any) -> tuple[list[Any], list[Tensor]]:
    cls, given = OPTIMIZERS[name]
    generator = torch.Generator().manual_seed(0)
    ps = [torch.randn(s, generator=generator).requires_grad_() for s in ((6, 5), (4,), (3, 2))]
    optimizer = cls([{"params": ps[:2]}, {"params": ps[2:], "weight_decay": 0.1}], **given, **options)
    decided, kept = [], []
    for t, _ in enumerate(random_gradients(ps, 60)):
        if t % 7 == 5:
            ps[1].grad = None
        with watch.set(True) if watch else contextlib.nullcontext():
            optimizer.step()
        decided.append([{key: group[key] for key in DECIDED if key in group} for group in optimizer.param_groups])
        kept.append(kept_by(optimizer))
    if options.get("capturable"):
        assert all(step == kept[0] for step in kept), "a CUDA graph works on fixed addresses"
    return decided, ps


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_looks_at_nothing(watch, name, capturable):
    train(name, watch, capturable=capturable)
    assert watch.seen == []


@pytest.mark.parametrize("type_", ["mix", "mix_parameter_wise"])
def test_weights_that_nobody_has_read_are_not_waited_for(watch, type_):
    """Not even if they become constant."""
    p = torch.zeros(3, requires_grad=True)
    optimizer = gap_hf.GapAdamW([p], type=type_, weights="score", capturable=True)
    (group,) = optimizer.param_groups
    for weights in ("score", [0.25, 0.75], [0.75, 0.25], "score"):
        group["weights"] = weights
        p.grad = torch.ones(3)
        with watch.set(True):
            optimizer.step()
        if weights != "score":
            last = [group[key] if type_ == "mix" else group[key][0] for key in ("last_weights", "last_choice")]
            assert last == [weights, weights.index(0.75)]
    assert "tolist" not in watch.seen


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_choices_on_the_device_are_those_on_the_host(monkeypatch, request, name):
    on_host = train(name, foreach=False)
    on_device = train(name, request.getfixturevalue("watch"))
    assert on_device[0] == on_host[0]
    assert all(torch.equal(p, q) for p, q in zip(on_device[1], on_host[1], strict=True))


def test_the_watch_sees(watch):
    """It would notice: reading the choices is a look."""
    cls, options = OPTIMIZERS["adamw-switch"]
    p = torch.zeros(3, requires_grad=True)
    optimizer = cls([p], **options)
    p.grad = torch.ones(3)
    with watch.set(True):
        optimizer.step()
        assert watch.seen == []
        assert optimizer.param_groups[0]["last_choice"] in (0, 1)
        assert watch.seen == ["tolist"]
        assert optimizer.param_groups[0]["last_choice"] in (0, 1)
        assert watch.seen == ["tolist"], "once"
