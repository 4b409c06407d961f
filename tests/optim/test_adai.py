"""Adai against its reference, and where the published code goes wrong. (Layouts and checkpoints: tests/sharding.)"""

import copy
from typing import ClassVar

import pytest
import torch
from transformers import TrainingArguments
from transformers.trainer import Trainer

import gap_hf
from gap_hf.optim.reference.adai import ReferenceAdai

from .twins import KERNELS

FLAGS = KERNELS
OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled_weight_decay": True},
    {"dampening": 0.5, "eps": 0.01, "betas": (0.3, 0.9), "maximize": True},
    {"dampening": 0.0},
]


RULES = [
    {"type": "switch", "J_ema": 0.5, "weight_decay": 0.1, "decoupled_weight_decay": True},
    {"type": "switch_parameter_wise", "hysteresis_threshold": 2, "maximize": True},
    {"type": "mix", "weights": (0.2, 0.3, 0.5)},
    {"type": "mix", "weights": "score", "dampening": 0.5},
    {"type": "mix_parameter_wise", "weights": "score"},
    {"type": "random", "seed": 3},
]
CANDIDATES = [(0.02, 0.99), (0.1, 0.99), (0.5, 0.99)]


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in ((6, 5), (4,), (), (0,))]


def set_gradients(ps, t, size=1.0):
    generator = torch.Generator().manual_seed(t)
    for i, p in enumerate(ps):
        g = (torch.randn(p.shape, generator=generator) + 0.5) * size * 10.0**-i
        p.grad = None if (t + i) % 5 == 4 else g.to(p.dtype)


def groups(ps):
    return [{"params": ps[:2]}, {"params": ps[2:], "lr": 0.02}]


@pytest.mark.parametrize("kernel", FLAGS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_as_the_reference(kernel, options):
    ps, qs = parameters(), parameters()
    optimizer = gap_hf.Adai(groups(ps), lr=0.05, **options, **FLAGS[kernel])
    reference = ReferenceAdai(groups(qs), lr=0.05, **{**options, "betas": [options.get("betas", (0.1, 0.99))]})
    for t in range(60):
        for some in (ps, qs):
            set_gradients(some, t)
        before = [None if p.grad is None else p.grad.clone() for p in ps]
        optimizer.step()
        reference.step()
        for p, q, g in zip(ps, qs, before, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
            assert (p.grad is None) == (g is None)
            assert g is None or torch.equal(p.grad, g), "the gradient is left alone"


@pytest.mark.parametrize("kernel", FLAGS)
@pytest.mark.parametrize("options", RULES, ids=lambda options: f"{options['type']}-{options.get('weights')}")
def test_several_candidates_as_the_reference(kernel, options):
    ps, qs = parameters(), parameters()
    optimizer = gap_hf.Adai(groups(ps), lr=0.05, betas=CANDIDATES, **options, **FLAGS[kernel])
    reference = ReferenceAdai(groups(qs), lr=0.05, betas=CANDIDATES, **options)
    chosen = set()
    for t in range(60):
        for some in (ps, qs):
            set_gradients(some, t)
        for p, q in zip(ps, qs, strict=True):
            q.data.copy_(p.data)
        optimizer.step()
        reference.step()
        for mine, theirs in zip(optimizer.param_groups, reference.param_groups, strict=True):
            assert mine["last_choice"] == theirs["last_choice"], t
            chosen.add(str(mine["last_choice"]))
            if "mix" in options["type"]:
                torch.testing.assert_close(
                    torch.tensor(mine["last_weights"]), torch.tensor(theirs["last_weights"]), rtol=1e-4, atol=1e-5
                )
        for p, q in zip(ps, qs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert len(chosen) > 1 or options.get("weights", "score") != "score"


def test_with_one_inertia_for_all_the_scores_are_those_of_momentum():
    """If every element has the mean second moment, Adai's filter is SGD's momentum 1 - beta0, dampened."""
    p, q = (torch.zeros(6, requires_grad=True) for _ in range(2))
    adai = gap_hf.Adai([p], lr=0.0, betas=[(0.5, 0.0), (0.1, 0.0)], type="switch", J_ema=0.0)
    sgdm = gap_hf.SGDM([q], lr=0.0, momentum=[0.5, 0.9], type="switch")
    for t in range(20):
        p.grad = q.grad = torch.full((6,), float(torch.randn((), generator=torch.Generator().manual_seed(t))))
        adai.step()
        sgdm.step()
        torch.testing.assert_close(adai.last_scores, sgdm.last_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", FLAGS)
def test_the_size_of_the_gradients_matters_as_in_sgd(kernel):
    """At every scale it is the same algorithm: only the step has the gradient's size."""
    ends = []
    for size in (1.0, 2.0**-20):
        ps = parameters()
        optimizer = gap_hf.Adai(ps, lr=0.01 / size, **FLAGS[kernel])
        for t in range(10):
            set_gradients(ps, t, size)
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in ps]))
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", FLAGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_zero_and_low_precision(kernel, dtype):
    ps = parameters(dtype)
    before = [p.detach().clone() for p in ps]
    optimizer = gap_hf.Adai(ps, **FLAGS[kernel])
    for p in ps:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ps, before, strict=True))
    for t in range(200):
        set_gradients(ps, t)
        optimizer.step()
    assert all(p.isfinite().all() for p in ps)
    assert {s.dtype for p in ps for n, s in optimizer.state[p].items() if n != "step"} == {torch.float32}


def test_a_closure_and_a_resume():
    ps, qs = parameters(), parameters()
    one, two = gap_hf.Adai(ps), gap_hf.Adai(qs)

    def closure():
        set_gradients(ps, 1)
        return torch.tensor(3.0)

    assert one.step(closure) == 3
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for p, q in zip(ps, qs, strict=True):
        q.data.copy_(p.data)
    for t in range(2, 6):
        for some, optimizer in ((ps, one), (qs, two)):
            set_gradients(some, t)
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ps, qs, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (0.1, 1.0)}, r"expected \(beta0, beta2\), like \(0.1, 0.99\)"),
        ({"betas": [(0.1, 0.99), 0.2], "type": "switch"}, r"expected \(beta0, beta2\)"),
        ({"betas": [(0.1, 0.99), (0.2, 0.9)], "type": "switch"}, "all candidates have the same beta2"),
        ({"betas": [(0.1, 0.99), (0.2, 0.99)]}, "takes one candidate, got 2"),
        ({"eps": 0}, r"eps=0 is out of range; expected a number in \[1e-6, 1\)"),
        ({"lr_modulation": "power"}, "elements have filters of different power"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        gap_hf.Adai(parameters(), **options)


@pytest.mark.parametrize(("name", "decoupled"), [("adai", False), ("adaiw", True)])
def test_as_a_name_in_trainer(tmp_path, name, decoupled):
    args = TrainingArguments(
        str(tmp_path), optim=name, learning_rate=0.5, use_cpu=True, report_to=[], optim_args="betas=0.2/0.95,eps=0.01"
    )
    cls, options = Trainer.get_optimizer_cls_and_kwargs(args)
    optimizer = cls(parameters(), **options)
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, gap_hf.Adai)
    assert (group["decoupled_weight_decay"], group["betas"], group["eps"], group["lr"]) == (
        decoupled, (0.2, 0.95), 0.01, 0.5,
    )  # fmt: skip


@pytest.mark.parametrize("kernel", FLAGS)
def test_the_least_eps_and_gradients(kernel):
    """Neither makes 0 / 0."""
    for size in (1.0, 1e-25):
        ps = parameters()
        optimizer = gap_hf.Adai(ps, eps=1e-6, **FLAGS[kernel])
        for t in range(5):
            set_gradients(ps, t, size)
            ps[0].grad = torch.zeros_like(ps[0])
            optimizer.step()
        assert all(p.isfinite().all() for p in ps)


class TestPytorchOptimizers:
    """pytorch_optimizer 4.1.0, which has all three as options of one class."""

    WAYS: ClassVar = {
        "Adai": {},
        "AdaiW": {"weight_decouple": True},
        "AdaiV2": {"weight_decouple": True, "dampening": 0.5},
    }

    def apart(self, name, size, weight_decay):
        """How far both are apart after 100 steps, compared with how far they went."""
        package = pytest.importorskip("pytorch_optimizer")
        options, ends = self.WAYS[name], []
        for cls, own in (
            (getattr(gap_hf, name), {"dampening": options.get("dampening", 1.0)}),
            (package.Adai, options),
        ):
            ps = parameters()[:2]
            optimizer = cls(ps, lr=0.1, weight_decay=weight_decay, **own)
            for t in range(100):
                set_gradients(ps, t, size)
                for p in ps:
                    p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                optimizer.step()
            ends.append(torch.cat([p.detach().flatten() for p in ps]))
        start = torch.cat([p.detach().flatten() for p in parameters()[:2]])
        return float((ends[0] - ends[1]).norm() / (ends[0] - start).norm())

    @pytest.mark.parametrize("size", [1.0, 0.1])
    @pytest.mark.parametrize("name", WAYS)
    def test_the_same_steps(self, name, size):
        assert self.apart(name, size, weight_decay=0.1) < 1e-5

    @pytest.mark.parametrize("size", [1e-2, 1e-4])
    @pytest.mark.parametrize("name", WAYS)
    def test_its_floor_under_the_mean_makes_another_algorithm_of_it(self, name, size):
        """Ours only makes smaller steps (``test_the_size_of_the_gradients_matters_as_in_sgd``)."""
        assert self.apart(name, size, weight_decay=0.0) > 0.05
