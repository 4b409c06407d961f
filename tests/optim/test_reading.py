"""What is remembered of the options never outlives them: a rewritten one counts at the very next step."""

import copy

import pytest
import torch

import gap_hf
from gap_hf.optim.reading import Remembered

from .twins import needs_fused

BETAS = [(0.5, 0.9), (0.9, 0.95)]


def rewrite_in_place(group):
    group["betas"][0] = (0.2, 0.9)


def rewrite_tensor(group):
    group["lr"].fill_(0.3)


REWRITES = {
    "lr": {"lr": 0.3},
    "lr-int": {"lr": 1},
    "lr-tensor": {"lr": torch.tensor(0.3)},
    "betas": {"betas": [(0.2, 0.9), (0.9, 0.95)]},
    "betas-in-place": rewrite_in_place,
    "lr-tensor-in-place": rewrite_tensor,
    "eps": {"eps": 0.5},
    "weight_decay": {"weight_decay": 0.4},
    "decoupled": {"decoupled_weight_decay": False},
    "maximize": {"maximize": True},
    "lr_modulation": {"lr_modulation": "power"},
    "soft_reset": {"soft_reset": 0.1, "hysteresis_threshold": 1},
    "second_reset": {"second_order_momentum_reset_mode": "square", "hysteresis_threshold": 1, "soft_reset": 0.3},
    "J_ema": {"J_ema": 0.9},
}


def build(**options):
    generator = torch.Generator().manual_seed(0)
    ps = [torch.randn(shape, generator=generator).requires_grad_() for shape in [(6, 5), (4,)]]
    return ps, gap_hf.GapAdamW(
        [{"params": ps[:1]}, {"params": ps[1:]}], **{"lr": 0.1, "betas": copy.deepcopy(BETAS), **options}
    )


def set_gradients(ps, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in ps:
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("kernel", [pytest.param({}, marks=needs_fused), {"foreach": False}], ids=["fused", "loop"])
@pytest.mark.parametrize(
    ("name", "type_"),
    [(name, type_) for name in REWRITES for type_ in ("switch", "mix") if (name, type_) != ("lr_modulation", "mix")],
)
def test_a_rewritten_option_counts_at_the_next_step(name, type_, kernel):
    """Compared with a copy, which remembers nothing. (A mix always has the same ``lr_modulation``.)"""
    more = {"lr": torch.tensor(0.1)} if name == "lr-tensor-in-place" else {}
    if type_ == "mix" and "reset" in name:  # constant weights are never reset
        more["weights"] = "score"
    ps, optimizer = build(type=type_, **more, **kernel)
    for seed in range(3):
        set_gradients(ps, seed)
        optimizer.step()
    unchanged = copy.deepcopy(optimizer)
    for group in optimizer.param_groups:
        change = REWRITES[name]
        change(group) if callable(change) else group.update(copy.deepcopy(change))
    told = copy.deepcopy(optimizer)
    values = []
    for one in (optimizer, told, unchanged):
        qs = [p for group in one.param_groups for p in group["params"]]
        for seed in range(3, 5):
            set_gradients(qs, seed)
            for q in qs if "reset" in name else ():
                q.grad = -0.05 * one.state[q]["exp_avg_1"]  # a reset is due
            one.step()
        values.append(qs + [t for q in qs for t in one.state[q].values()])
    assert all(torch.equal(a, b) for a, b in zip(values[0], values[1], strict=True))
    if name not in ("J_ema", "lr_modulation"):  # which may change nothing here
        assert not all(torch.equal(a, b) for a, b in zip(values[0], values[2], strict=True))


@pytest.mark.parametrize(
    ("rewritten", "message"),
    [
        ({"betas": [(0.5, 0.9), (1.0, 0.95)]}, "out of range"),
        ({"betas": [(0.5, 0.9), (True, 0.95)]}, "out of range"),
        ({"betas": [(0.5, 0.9)]}, "cycle_momentum=False"),
        ({"betas": 0.9}, "malformed"),
        ({"eps": "small"}, "could not convert"),
        ({"lr": "small"}, "could not convert"),
        ({"weights": [0.1, -1.0]}, "out of range"),
    ],
)
def test_a_bad_value_is_an_error_at_the_next_step_and_every_later_one(rewritten, message):
    ps, optimizer = build(type="mix")
    set_gradients(ps, 0)
    optimizer.step()
    good = dict(optimizer.param_groups[1])
    optimizer.param_groups[1].update(rewritten)
    before = [p.detach().clone() for p in ps]
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ps, before, strict=True))
    optimizer.param_groups[1].update(good)
    optimizer.step()


def test_a_flag_is_not_a_number():
    """True == 1 and 0 == False, but not as options."""
    remembered = Remembered(lambda options: options["a"])
    for value in (1, True, 1.0, [0], [False], (0,), [0.0], [-0.0], None, "1"):
        found = remembered({"a": value})
        assert (repr(found), type(found)) == (repr(value), type(value))


def test_functions_are_called_only_if_something_changed():
    calls = []
    remembered = Remembered(lambda options: calls.append(1) or (options["a"], options.get("b", 7)))
    group = {"a": [1.0], "c": 0}
    assert remembered(group) == remembered(group) == ([1.0], 7)
    group["c"] = 1
    remembered(group)
    assert len(calls) == 1
    group["a"][0] = 2.0
    assert remembered(group) == ([2.0], 7)
    group["b"] = None
    assert remembered(group) == ([2.0], None)
    assert len(calls) == 3


@pytest.mark.parametrize("value", [torch.tensor(1.0), {"nested": 1}, [{}], object()])
def test_what_can_change_unseen_is_read_every_time(value):
    calls = []
    remembered = Remembered(lambda options: calls.append(1) or options["a"])
    group = {"a": value}
    assert remembered(group) is remembered(group) is value
    assert len(calls) == 2


def test_functions_that_look_at_all_options_are_called_every_time():
    remembered = Remembered(lambda options: sorted(options))
    group = {"a": 1}
    assert remembered(group) == ["a"]
    group["b"] = 2
    assert remembered(group) == ["a", "b"]
