"""A saved state goes on as if nothing had happened, wherever it comes from."""

import copy
import io

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from .checks import check
from .steps import copies, error, mlp, parameters, same, train, trained, values

FLAGS = ("foreach", "fused", "maximize", "capturable", "differentiable")
"""The options that torch's optimizers did not have from the start: older states lack them."""


def resumed(variant, optimizer, saved, **given):
    """Make a new optimizer on copies of the parameters, and load ``saved`` into it."""
    other = variant.build(copies(trained(optimizer)), **given)
    other.load_state_dict(saved)
    return other


@check()
def test_round_trip(variant):
    optimizer = variant.build(parameters())
    train(optimizer, 5, seed=1)
    saved = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(saved)
    other = resumed(variant, optimizer, saved)
    same(saved, kept)
    end = train(optimizer, 5, seed=2)
    same(train(other, 5, seed=2), end)
    same(other.state_dict(), optimizer.state_dict())
    return end


@pytest.mark.parametrize("weights_only", [True, False])
@check()
def test_round_trip_through_a_file(variant, weights_only):
    optimizer = variant.build(parameters())
    train(optimizer, 5, seed=1)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=weights_only)
    same(saved, optimizer.state_dict())
    other = resumed(variant, optimizer, saved)
    end = train(optimizer, seed=2)
    same(train(other, seed=2), end)
    return end


@pytest.mark.parametrize("load_named", [True, False])
@pytest.mark.parametrize("save_named", [True, False])
@check()
def test_with_and_without_names(variant, save_named, load_named):
    def build(named):
        model = mlp()
        return model, variant.build(model.named_parameters() if named else model.parameters())

    def fit(model, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            error(model).backward()
            optimizer.step()

    model, optimizer = build(save_named)
    fit(model, optimizer)
    again, other = build(load_named)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    fit(model, optimizer)
    fit(again, other)
    same(list(again.parameters()), list(model.parameters()))
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert other.param_groups[0].get("param_names") == (names if save_named or load_named else None)


@check()
def test_groups_listed_twice_are_written_alike(variant):
    optimizer = variant.build(parameters())
    train(optimizer)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.param_groups.extend(optimizer.param_groups)
    same(optimizer.state_dict()["param_groups"], groups * 2)


@check()
def test_older_state(variant):
    """Options that the state lacks take their defaults, which may mean another kernel."""
    optimizer = variant.build(parameters())
    train(optimizer, 5, seed=1)
    saved = copy.deepcopy(optimizer.state_dict())
    flags = [flag for flag in FLAGS if flag in saved["param_groups"][0]]
    for group in saved["param_groups"]:
        for flag in flags:
            del group[flag]
    other = resumed(variant, optimizer, saved)
    assert set(flags) <= set(other.param_groups[0])
    end = train(other, seed=2)
    same(end, train(optimizer, seed=2), exact=False)
    return end


def resume_with_steps(variant, convert):
    """Save, put ``convert(step)`` in the place of each step, load, and go on beside the optimizer that was saved."""
    optimizer = variant.build(parameters())
    train(optimizer, 5, seed=1)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        if "step" in state:
            state["step"] = convert(state["step"])
    other = resumed(variant, optimizer, saved)
    end = train(optimizer, seed=2)
    same(train(other, seed=2), end)
    return end


@pytest.mark.parametrize("number", [int, float])
@check()
def test_step_as_a_plain_number(variant, number):
    return resume_with_steps(variant, number)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@check()
def test_step_in_another_dtype(variant, dtype):
    return resume_with_steps(variant, lambda step: step.to(dtype))


@check()
def test_integer_step(variant):
    return resume_with_steps(variant, lambda step: step.to(torch.int64))


def into(variant, dtype):
    """Train in float32, and go on in ``dtype``."""
    optimizer = variant.build(parameters())
    train(optimizer, 5, seed=1)
    other = variant.build([p.detach().to(dtype).requires_grad_() for p in trained(optimizer)])
    other.load_state_dict(optimizer.state_dict())
    for p in trained(other):
        assert all(value.dtype == dtype for key, value in other.state[p].items() if key != "step")
    return train(other, seed=2)


@check()
def test_float32_state_into_bfloat16_parameters(variant):
    end = into(variant, torch.bfloat16)
    return end if variant.row in ("torch", "default") else None  # kernels round bfloat16 differently


@check()
def test_float32_state_into_float64_parameters(variant):
    return into(variant, torch.float64)


@check()
def test_another_models_state_is_refused(variant):
    optimizer = variant.build(parameters())
    train(optimizer)
    before = copy.deepcopy(optimizer.state_dict())
    for other in (variant.build(parameters((4, 3), (5,))), variant.build([{"params": p} for p in parameters()])):
        train(other)
        with pytest.raises(ValueError, match="another model|parameter group"):
            optimizer.load_state_dict(other.state_dict())
    same(optimizer.state_dict(), before)


@check()
def test_before_the_first_step(variant):
    optimizer = variant.build(parameters())
    other = resumed(variant, optimizer, optimizer.state_dict())
    end = train(optimizer)
    same(train(other), end)
    return end


@check()
def test_its_own_state_changes_nothing(variant):
    optimizer, undisturbed = variant.build(parameters()), variant.build(parameters())
    for seed in range(3):
        end = train(optimizer, 2, seed)
        same(end, train(undisturbed, 2, seed))
        optimizer.load_state_dict(optimizer.state_dict())
    return end


@check()
def test_every_parameter_has_state(variant):
    optimizer = variant.build(parameters())
    train(optimizer, 1)
    assert all(optimizer.state[p] for p in trained(optimizer))


@check()
def test_foreign_entries_survive(variant):
    """Users keep things in the state or in a group that the optimizer does not know."""
    params = parameters()
    optimizer = variant.build([{"params": params, "role": "decoder", "lr_scale": 0.5}])
    train(optimizer)
    optimizer.state["note"] = 7
    other = resumed(variant, optimizer, copy.deepcopy(optimizer.state_dict()))
    assert other.state["note"] == 7
    assert (other.param_groups[0]["role"], other.param_groups[0]["lr_scale"]) == ("decoder", 0.5)
    same(train(other, seed=1), train(optimizer, seed=1))


@check()
def test_distributed_checkpoints_functions(variant):
    """They save and load by the names of parameters; here in one process."""

    def fit(model, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            error(model).backward()
            optimizer.step()
        return values(list(model.parameters()))

    model = mlp()
    optimizer = variant.build(model.parameters())
    fit(model, optimizer)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    again = mlp()
    again.load_state_dict(model.state_dict())
    other = variant.build(again.parameters())
    set_optimizer_state_dict(again, other, saved)
    end = fit(model, optimizer)
    same(fit(again, other), end)
    return end
