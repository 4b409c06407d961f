"""Whole state by names, in one process; under the other layouts by ``test_layouts.py``."""

import pytest
import torch
from torch import nn

import gap_hf


def test_state_by_name():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[1].parameters()}]
    optimizer = gap_hf.Adam(groups, lr=0.1, betas=[(0.5, 0.9), (0.9, 0.99)], type="switch_parameter_wise")
    model[0](torch.ones(4, 3)).sum().backward()  # the second layer has no gradient
    optimizer.step()
    found = gap_hf.consolidated_state_dict(optimizer, model)
    assert [group["params"] for group in found["param_groups"]] == [["0.weight", "0.bias"], ["1.weight", "1.bias"]]
    assert [group["lr"] for group in found["param_groups"]] == [0.5, 0.1]
    assert found["param_groups"][0]["last_choice"] == optimizer.param_groups[0]["last_choice"]
    assert found["state"].keys() == {"0.weight", "0.bias"}
    assert found["state"]["0.weight"].keys() == {"step", "exp_avg_0", "exp_avg_1", "exp_avg_sq_0", "exp_avg_sq_1"}
    torch.testing.assert_close(found["state"]["0.weight"]["exp_avg_0"], 0.5 * model[0].weight.grad)
    optimizer.state[model[0].weight]["exp_avg_0"].zero_()
    assert found["state"]["0.weight"]["exp_avg_0"].any(), "a copy"


def test_another_optimizer():
    model = nn.Linear(2, 1)
    with pytest.raises(TypeError, match="AdamW is, or holds, no gap optimizer"):
        gap_hf.consolidated_state_dict(torch.optim.AdamW(model.parameters()), model)


# ---------------------------------------------------------------- handing it out again
def trained(steps: int = 3, **options):
    """A model of two layers and its optimizer after some steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    given = {"lr": 0.1, "betas": [(0.5, 0.9), (0.9, 0.99)], "type": "switch_parameter_wise"}
    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters()}]
    optimizer = gap_hf.Adam(groups, **{**given, **options})
    step(model, optimizer, range(steps))
    return model, optimizer


def step(model, optimizer, numbers) -> None:
    for t in numbers:
        optimizer.zero_grad()
        model(torch.full((4, 3), float(t))).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("options", [{}, {"type": "switch", "J_ema": 0.5}, {"state_dtype": "bfloat16"}])
def test_a_run_goes_on_from_it(options):
    model, optimizer = trained(**options)
    other, fresh = trained(0, **options)
    other.load_state_dict(model.state_dict())
    gap_hf.load_consolidated_state_dict(fresh, other, gap_hf.consolidated_state_dict(optimizer, model))
    for of, by in ((model, optimizer), (other, fresh)):
        step(of, by, range(3, 9))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    assert [g["last_choice"] for g in optimizer.param_groups] == [g["last_choice"] for g in fresh.param_groups]


def change(state, name, buffer, to) -> None:
    state["state"][name][buffer] = to(state["state"][name][buffer])


MISMATCHES = {
    "dtype": (
        lambda s: change(s, "0.weight", "exp_avg_0", torch.Tensor.half),
        "exp_avg_0 of 0.weight is torch.float16; expected torch.float32",
    ),
    "shape": (
        lambda s: change(s, "0.bias", "exp_avg_1", lambda t: t[:1]),
        r"exp_avg_1 of 0.bias has the shape \(1,\); expected \(2,\)",
    ),
    "K": (
        lambda s: s["param_groups"][1].update(betas=[(0.5, 0.9)]),
        r"group 1 has betas=\[\(0.5, 0.9\)\], this optimizer \[\(0.5, 0.9\), \(0.9, 0.99\)\]",
    ),
    "order of candidates": (
        lambda s: s["param_groups"][0]["betas"].reverse(),
        r"group 0 has betas=\[\(0.9, 0.99\), \(0.5, 0.9\)\], this optimizer",
    ),
    "type": (
        lambda s: s["param_groups"][0].update(type="switch"),
        "group 0 has type='switch', this optimizer 'switch_parameter_wise'",
    ),
    "a missing buffer": (
        lambda s: s["state"]["1.bias"].pop("exp_avg_1"),
        "1.bias has the buffers exp_avg_0, exp_avg_sq_0, exp_avg_sq_1; expected exp_avg_0, exp_avg_1",
    ),
    "another name": (
        lambda s: s["param_groups"][0].update(params=["0.weight", "0.scale"]),
        "group 0 lacks 0.bias; group 0 has 0.scale, which this optimizer does not have there",
    ),
    "another order": (
        lambda s: s["param_groups"][0]["params"].reverse(),
        "group 0 has its parameters in another order: 0.bias, 0.weight in the place of 0.weight, 0.bias",
    ),
    "a missing parameter": (lambda s: s["param_groups"][1]["params"].pop(), "group 1 lacks 1.bias"),
    "an extra parameter": (
        lambda s: s["state"].update({"2.weight": s["state"]["1.weight"]}),
        "it has buffers of 2.weight, which this optimizer does not have",
    ),
    "a missing group": (lambda s: s["param_groups"].pop(), "it has 1 parameter groups, this optimizer 2"),
    "another optimizer": (
        lambda s: [g.pop("betas") for g in s["param_groups"]],
        "group 0 has no betas, so it is another optimizer's",
    ),
    "no state at all": (lambda s: s.clear(), r"this is no whole state by names; .* \(KeyError: 'state'\)"),
    "a damaged count": (
        lambda s: s["state"]["0.bias"].update(step=-1.0),
        "step of parameter 1 of group 0 is -1.0; expected the number of its steps",
    ),
}


@pytest.mark.parametrize("which", MISMATCHES)
def test_whatever_differs_is_named_and_nothing_changes(which):
    tamper, said = MISMATCHES[which]
    model, optimizer = trained()
    state = gap_hf.consolidated_state_dict(optimizer, model)
    tamper(state)
    other, untouched = trained(2)
    before = gap_hf.consolidated_state_dict(untouched, other)
    with pytest.raises(ValueError, match=said):
        gap_hf.load_consolidated_state_dict(untouched, other, state)
    after = gap_hf.consolidated_state_dict(untouched, other)
    assert before["param_groups"] == after["param_groups"]
    for name, buffers in before["state"].items():
        assert all(torch.equal(buffer, after["state"][name][key]) for key, buffer in buffers.items())


def test_into_another_optimizer():
    model = nn.Linear(2, 1)
    with pytest.raises(TypeError, match="AdamW is, or holds, no gap optimizer"):
        gap_hf.load_consolidated_state_dict(torch.optim.AdamW(model.parameters()), model, {})
