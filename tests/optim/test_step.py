"""A step that fails or is interrupted leaves the next one right."""

import copy

import pytest
import torch

import gap_hf
from gap_hf.optim.kernels.foreach import Foreach, Loop
from gap_hf.optim.kernels.fused_cpu import FusedCPU
from gap_hf.optim.scope import OneForAll

from .test_shell import CASES
from .twins import KERNELS

CLASSES = {"fused": FusedCPU, "foreach": Foreach, "loop": Loop}
CHOOSING = {name: case for name, case in CASES.items() if "default" not in name}


class Interrupted(BaseException):
    """What Ctrl-C raises is no Exception either."""


def once(method):
    """``method``, which raises on its first call when it is half done."""
    calls = []

    def failing(self, work, *args):
        calls.append(None)
        if len(calls) == 1:
            method(self, work.select([0]), *args) if method.__name__ == "observe" else None
            raise Interrupted
        return method(self, work, *args)

    return failing


def build(cls, options, kernel):
    generator = torch.Generator().manual_seed(0)
    ps = [torch.randn(shape, generator=generator).requires_grad_() for shape in [(6, 5), (4,), ()]]
    return ps, cls([{"params": ps[:2]}, {"params": ps[2:]}], **options, **KERNELS[kernel])


def set_gradients(ps, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in ps:
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("where", ["tick", "apply"])
@pytest.mark.parametrize(("cls", "options"), CHOOSING.values(), ids=CHOOSING)
def test_the_next_step_is_that_of_its_own_gradient(monkeypatch, cls, options, where, kernel):
    """Interrupted between its phases, a step has changed the moments at most: the next one applies them once."""
    ps, optimizer = build(cls, options, kernel)
    for seed in range(3):
        set_gradients(ps, seed)
        optimizer.step()
    undisturbed = copy.deepcopy(optimizer)
    with monkeypatch.context() as patch:
        if kernel == "fused" and where == "apply":  # then observing and applying are one call into C
            patch.setattr(
                OneForAll, "remember", once(OneForAll.remember)
            ) if optimizer.type == "switch" else patch.setattr(FusedCPU, "step", once(FusedCPU.step))
        else:
            patch.setattr(CLASSES[kernel], where, once(getattr(CLASSES[kernel], where)))
        set_gradients(ps, 3)
        with pytest.raises(Interrupted):
            optimizer.step()
    taken = optimizer.steps_taken
    # what the moments and counts are now, in an optimizer that never saw an interrupt
    qs = [p for group in undisturbed.param_groups for p in group["params"]]
    for p, q in zip(ps, qs, strict=True):
        q.data.copy_(p.data)
    undisturbed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in range(4, 8):
        for some in (ps, qs):
            set_gradients(some, seed)
        optimizer.step()
        undisturbed.step()
        assert all(torch.equal(p, q) for p, q in zip(ps, qs, strict=True))
    assert optimizer.steps_taken == taken + 4


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "fused"])
def test_a_gradient_is_applied_once(monkeypatch, kernel):
    """Without momentum each step moves by its gradient times the learning rate."""
    p = torch.zeros(1, requires_grad=True)
    optimizer = gap_hf.SGDM([p], lr=0.1, momentum=[0.0], type="switch", **KERNELS[kernel])
    p.grad = torch.ones(1)
    with monkeypatch.context() as patch:
        patch.setattr(CLASSES[kernel], "apply", once(CLASSES[kernel].apply))
        with pytest.raises(Interrupted):
            optimizer.step()
    assert p.item() == 0
    optimizer.step()
    assert p.item() == pytest.approx(-0.1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("cls", "options"), CHOOSING.values(), ids=CHOOSING)
def test_state_that_was_merely_read_is_none(cls, options, kernel):
    """``optimizer.state`` is a defaultdict: looking at a parameter's entry makes an empty one."""
    ps, optimizer = build(cls, options, kernel)
    assert not optimizer.state[ps[1]]
    for seed in range(12):  # with resets on the way
        set_gradients(ps, 0)
        ps[1].grad = None
        if seed % 2:
            ps[0].grad, ps[2].grad = -ps[0].grad, -ps[2].grad
        optimizer.step()
    gap_hf.consolidated_state_dict(optimizer, torch.nn.ParameterList(ps))
    set_gradients(ps, 1)
    optimizer.step()
    assert optimizer.state[ps[1]]["step"].item() == 1


def test_half_made_state_is_dropped(monkeypatch):
    ps, optimizer = build(gap_hf.GapAdamW, {}, "loop")
    set_gradients(ps, 0)
    original, calls = torch.zeros_like, []

    def zeros_like(*args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            raise Interrupted
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros_like", zeros_like)
        with pytest.raises(Interrupted):
            optimizer.step()
    optimizer.step()
    assert {len(state) for state in optimizer.state.values()} == {4}


@pytest.mark.parametrize(
    ("cls", "options", "make"),
    [
        (gap_hf.SGDM, {"momentum": [0.5, 0.9, 0.99], "type": "switch"}, "OneCycleLR"),
        (gap_hf.SGDM, {"momentum": [0.5, 0.9, 0.99], "type": "switch_parameter_wise"}, "OneCycleLR"),
        (gap_hf.GapAdamW, {}, "OneCycleLR"),
        (gap_hf.SGDM, {"momentum": [0.5, 0.9, 0.99], "type": "switch"}, "CyclicLR"),
    ],
)
def test_schedulers_that_cycle_momentum_are_told_so_before_anything_moves(cls, options, make):
    p = torch.ones(3, requires_grad=True)
    optimizer = cls([p], **options)
    p.grad = torch.ones(3)
    if make == "OneCycleLR":
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=30)
    else:
        torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-3, 1e-2)
    with pytest.raises(ValueError, match="cycle_momentum=False"):
        optimizer.step()
    assert torch.equal(p, torch.ones(3))
    assert not optimizer.state[p]


def test_one_momentum_may_be_cycled():
    p = torch.ones(3, requires_grad=True)
    optimizer = gap_hf.SGDM([p], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=30)
    for _ in range(5):
        p.grad = torch.ones(3)
        optimizer.step()
        scheduler.step()
    assert 0.85 <= optimizer.param_groups[0]["momentum"] < 0.95
