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
