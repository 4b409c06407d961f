"""A run that AdamW or SGD began goes on with GAP, under Trainer, without a bump in the loss."""

import pytest

import gap_hf  # noqa: F401  # adds the names

from ..tiny import tiny_trainer


@pytest.mark.parametrize("before", ["adamw_torch", "adamw_torch_fused", "sgd"])
def test_without_a_bump(tmp_path, before, caplog):
    """The steps after the change lower the loss as those of the optimizer that began do."""
    after = "gap_sgdm" if before == "sgd" else "gap_adamw"
    steps = {"max_steps": 30, "logging_steps": 1, "lr_scheduler_type": "constant", "learning_rate": 0.01}
    kept = {"save_strategy": "steps", "save_steps": 20}
    whole = tiny_trainer(
        tmp_path / "whole", optim=before, optim_args="momentum=0.9" if before == "sgd" else None, **steps, **kept
    )
    whole.train()
    changed = tiny_trainer(tmp_path / "changed", optim=after, **steps)
    changed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-20"))
    assert "the checkpoint is of torch.optim's" in caplog.text
    losses = {
        name: [log["loss"] for log in trainer.state.log_history if "loss" in log][20:]
        for name, trainer in (("whole", whole), ("changed", changed))
    }
    start = next(log["loss"] for log in whole.state.log_history if log.get("step") == 1)
    assert len(losses["changed"]) == 10
    gained = start - min(losses["whole"])
    worst = max(mine - theirs for mine, theirs in zip(losses["changed"], losses["whole"], strict=True))
    assert worst < 0.2 * gained, losses
