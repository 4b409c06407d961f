"""A gap optimizer's checkpoint, resumed with another optimizer."""

import pytest
from transformers import TrainerCallback

import gap_hf  # noqa: F401  # adds the names

from ..tiny import tiny_trainer

STEPS = {"max_steps": 4, "logging_steps": 1}


class NoStep(TrainerCallback):
    def on_step_begin(self, *args, **kwargs):
        raise AssertionError("it was to be told before the first step")


def test_what_happened_and_how_to_go_on(tmp_path):
    """The message says what to do, and that works."""
    tiny_trainer(tmp_path, save_strategy="steps", save_steps=2, **STEPS).train()
    checkpoint = tmp_path / "checkpoint-2"
    other = tiny_trainer(tmp_path / "other", callbacks=[NoStep()], optim="adamw_torch", **STEPS)
    with pytest.raises(RuntimeError, match="loaded is a gap optimizer's.*delete optimizer.pt from the checkpoint"):
        other.train(resume_from_checkpoint=str(checkpoint))

    (checkpoint / "optimizer.pt").unlink()
    other = tiny_trainer(tmp_path / "other", optim="adamw_torch", **STEPS)
    other.train(resume_from_checkpoint=str(checkpoint))
    rates = {log["step"]: log["learning_rate"] for log in other.state.log_history if "loss" in log}
    assert rates[3] == rates[1], "it goes on where the checkpoint was, with a schedule that starts again"
