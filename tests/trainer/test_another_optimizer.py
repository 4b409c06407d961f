"""A gap optimizer's checkpoint, resumed with another optimizer."""

import pytest
import torch

import gap_hf

from ..tiny import tiny_trainer

STEPS = {"max_steps": 4, "logging_steps": 1}


def test_what_happened_and_how_to_go_on(tmp_path):
    """The message says what to do, and that works."""
    tiny_trainer(tmp_path, save_strategy="steps", save_steps=2, **STEPS).train()
    checkpoint = tmp_path / "checkpoint-2"
    other = tiny_trainer(tmp_path / "other", optim="adamw_torch", **STEPS)
    with pytest.raises(RuntimeError, match="loaded is a gap optimizer's.*delete optimizer.pt from the checkpoint"):
        other.train(resume_from_checkpoint=str(checkpoint))

    (checkpoint / "optimizer.pt").unlink()
    other = tiny_trainer(tmp_path / "other", optim="adamw_torch", **STEPS)
    other.train(resume_from_checkpoint=str(checkpoint))
    rates = {log["step"]: log["learning_rate"] for log in other.state.log_history if "loss" in log}
    assert rates[3] == rates[1], "it goes on where the checkpoint was, with a schedule that starts again"


def test_another_family():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    gap = gap_hf.SGDM([p], momentum=0.9, type="default")
    gap.step()
    sgd = torch.optim.SGD([p])
    sgd.load_state_dict(gap.state_dict())
    with pytest.raises(RuntimeError, match=r"the state that torch.optim.sgd.SGD has loaded is a gap optimizer's"):
        sgd.step()
