"""Which options win where a checkpoint and the new run differ, and that one line in the log tells."""

import copy

import pytest
import torch

import gap_hf
from gap_hf.optim.codes import widened

from .test_loading import B, trained
from .test_shell import run
from .twins import random_gradients


def test_options_of_the_run_and_of_the_checkpoint(caplog):
    """The table of docs/howto/resume.md."""
    saved = trained(lr=0.1, weight_decay=0.01, eps=1e-6, soft_reset=0.9, hysteresis_threshold=10)[1].state_dict()
    here = {"soft_reset": 0.5, "hysteresis_threshold": 3, "second_order_momentum_reset_mode": "same"}
    here |= {"foreach": True, "lr_modulation": True}
    optimizer = trained(lr=0.2, weight_decay=0.5, eps=1e-8, maximize=True, **here)[1]
    optimizer.load_state_dict(saved)
    for group in optimizer.param_groups:
        assert {key: group[key] for key in here} == here
        assert {key: group[key] for key in ("lr", "weight_decay", "eps", "maximize")} == {
            "lr": 0.1, "weight_decay": 0.01, "eps": 1e-6, "maximize": False,
        }  # fmt: skip
    (line,) = [record.getMessage() for record in caplog.records if "optimizer state loaded" in record.getMessage()]
    checkpoint, _, run_ = line.partition("; from this run: ")
    for shown in ("lr=0.1 (this run: 0.2)", "weight_decay=0.01 (this run: 0.5)", "eps=1e-06 (this run: 1e-08)"):
        assert shown in checkpoint
    for shown in ("soft_reset=0.5 (checkpoint: 0.9)", "hysteresis_threshold=3 (checkpoint: 10)", "foreach=True"):
        assert shown in run_


def test_nothing_is_told_where_nothing_differs_but_the_scheduled_learning_rate(caplog):
    ps, optimizer = trained(lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for _ in random_gradients(ps, 3):
        optimizer.step()
        scheduler.step()
    saved = copy.deepcopy(optimizer.state_dict())
    again = trained(lr=0.1)[1]
    torch.optim.lr_scheduler.LambdaLR(again, lambda step: 1 / (1 + step))
    caplog.clear()
    again.load_state_dict(saved)
    assert not caplog.records
    assert again.param_groups[0]["lr"] == 0.025


def test_an_option_that_holds_itself_is_told_like_any_other(caplog):
    """A file can hold such a list; an option that the optimizer does not know is somebody else's."""
    saved = copy.deepcopy(trained()[1].state_dict())
    endless = [1]
    endless.append(endless)
    saved["param_groups"][0]["note"] = endless
    optimizer = trained()[1]
    optimizer.param_groups[0]["note"] = 1
    optimizer.load_state_dict(saved)
    assert "note=[1, [...]] (this run: 1)" in caplog.text


def test_a_soft_reset_of_the_new_run_is_used():
    """The defect: a changed option was dropped, and the run ended in the old one's bits."""
    ends = []
    for soft_reset in (0.9, 0.1):
        ps, source = trained(gap_hf.SGDM, momentum=[0.9, 0.99], type="switch", hysteresis_threshold=1, soft_reset=0.9)
        saved = copy.deepcopy(source.state_dict())
        optimizer = gap_hf.SGDM([{"params": ps[:2]}, {"params": ps[2:]}], momentum=[0.9, 0.99], type="switch",
                                hysteresis_threshold=1, soft_reset=soft_reset)  # fmt: skip
        optimizer.load_state_dict(saved)
        run(optimizer, ps, 60, seed=1)
        ends.append(torch.cat([p.detach().flatten() for p in ps]))
    assert not torch.equal(*ends)


def test_decoupled_decay_is_a_matter_of_the_class():
    _, adam = trained(gap_hf.Adam, betas=B, type="switch_parameter_wise", weight_decay=0.1)
    _, adamw = trained(gap_hf.GapAdamW, weight_decay=0.1)
    adamw.load_state_dict(adam.state_dict())
    assert all(group["decoupled_weight_decay"] for group in adamw.param_groups)
    assert adamw.family.numbers(adamw.param_groups[0]).l2 == 0


def test_another_type_brings_its_own_options(caplog):
    saved = trained(type="switch", J_ema=0.9, soft_reset=0.3)[1].state_dict()
    optimizer = trained(type="switch_parameter_wise", soft_reset=0.7)[1]
    optimizer.load_state_dict(saved)
    first = optimizer.param_groups[0]
    assert (optimizer.type, first["J_ema"], first["soft_reset"]) == ("switch", 0.9, 0.3)
    assert "type='switch' (this run: 'switch_parameter_wise')" in caplog.text


@pytest.mark.parametrize("here", [None, "float32", "bfloat16", "8bit"])
@pytest.mark.parametrize("there", [None, "bfloat16", "8bit"])
def test_state_is_converted_to_the_runs_dtype(here, there):
    def built(state_dtype):
        p = torch.zeros(64, 64, requires_grad=True)
        optimizer = gap_hf.GapAdamW([p], betas=B, state_dtype=state_dtype)
        for _ in random_gradients([p], 3):
            optimizer.step()
        return p, optimizer

    p, source = built(there)
    q, optimizer = built(here)
    optimizer.load_state_dict(source.state_dict())
    assert optimizer.param_groups[0]["state_dtype"] == here
    assert {key: value.dtype for key, value in optimizer.state[q].items()} == {
        key: value.dtype for key, value in built(here)[1].state.popitem()[1].items()
    }
    torch.testing.assert_close(optimizer.state[q]["exp_avg_sq_0"], source.state[p]["exp_avg_sq_0"], rtol=0, atol=0)
    declared = source.family.buffers(source.param_groups[0])
    wide = [widened(declared, state)["exp_avg_1"].float() for state in (source.state[p], optimizer.state[q])]
    torch.testing.assert_close(*wide, rtol=0.02, atol=0.02 * wide[0].abs().max().item())
    for _ in random_gradients([q], 2):
        optimizer.step()
