"""A run that AdamW or SGD began goes on with GAP, under Trainer, without a bump in the loss."""

import pytest
import torch
from transformers import Trainer

import gap_hf  # noqa: F401  # adds the names

from ..tiny import arguments, tiny_data, tiny_model, tiny_trainer

STEPS = {"max_steps": 30, "logging_steps": 1, "lr_scheduler_type": "constant", "learning_rate": 0.01}


def last_losses(trainer) -> list[float]:
    """Those after the change."""
    return [log["loss"] for log in trainer.state.log_history if "loss" in log and log["step"] > 20]


@pytest.fixture(scope="module", params=["adamw_torch", "adamw_torch_fused", "sgd"])
def whole(request, tmp_path_factory):
    """An optimizer of torch, and its run, with a checkpoint on the way."""
    given = {**STEPS, "save_strategy": "steps", "save_steps": 20}
    output = tmp_path_factory.mktemp("whole")
    if request.param == "sgd":  # before transformers 5.5 optim_args do not reach it (transformers#44075)
        sgd = torch.optim.SGD, {"lr": given["learning_rate"], "momentum": 0.9}
        args = arguments(output, optim="sgd", **given)
        trainer = Trainer(tiny_model(), args, train_dataset=tiny_data(), optimizer_cls_and_kwargs=sgd)
    else:
        trainer = tiny_trainer(output, optim=request.param, **given)
    trainer.train()
    return request.param, trainer


def changed(whole, folder, adamw: str, sgd: str):
    """The second part of the run with GAP, with these ``optim_args``."""
    name, trainer = whole
    optim, optim_args = ("gap_sgdm", sgd) if name == "sgd" else ("gap_adamw", adamw)
    other = tiny_trainer(folder, optim=optim, optim_args=optim_args, **STEPS)
    other.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-20")
    return other


def test_with_the_same_decay_rates_the_losses_are_the_same(whole, tmp_path, caplog):
    trainer = changed(whole, tmp_path, "betas=0.9,type=default", "momentum=0.9,type=default")
    assert "the checkpoint is of torch.optim's" in caplog.text
    assert len(last_losses(trainer)) == 10
    assert last_losses(trainer) == pytest.approx(last_losses(whole[1]), abs=1e-4)


def test_choosing_goes_on_without_a_bump(whole, tmp_path):
    """The same batches follow, so the losses can be compared: right after the change one by one, then their mean."""
    mine = last_losses(changed(whole, tmp_path, "betas=0.8:0.9", "momentum=0.8:0.9,lr_modulation=dc"))
    theirs = last_losses(whole[1])
    gained = whole[1].state.log_history[0]["loss"] - min(theirs)
    apart = [(a - b) / gained for a, b in zip(mine, theirs, strict=True)]
    assert max(apart[:4]) < 0.05, apart
    assert sum(apart) / len(apart) < 0.05, apart


@pytest.mark.parametrize("type_", ["switch_parameter_wise", "mix"])
def test_other_candidates_go_on_without_a_bump_where_that_is_asked_for(tmp_path, caplog, type_):
    given = {**STEPS, "optim": "gap_adamw"}
    first = tiny_trainer(tmp_path / "first", optim_args="betas=0.8:0.9", **given, save_strategy="steps", save_steps=20)
    first.train()
    checkpoint, args = f"{tmp_path}/first/checkpoint-20", f"betas=0.5:0.9:0.99,type={type_}"
    other = tiny_trainer(tmp_path / "other", optim_args=f"{args},convert=true", **given)
    other.train(resume_from_checkpoint=checkpoint)
    (group, *_) = other.optimizer.param_groups
    assert ([beta1 for beta1, _ in group["betas"]], group["type"]) == ([0.5, 0.9, 0.99], type_)
    assert "candidates that were there go on, others begin as the one applied last" in caplog.text
    mine, theirs = last_losses(other), last_losses(first)
    gained = first.state.log_history[0]["loss"] - min(theirs)
    apart = [(a - b) / gained for a, b in zip(mine, theirs, strict=True)]
    assert max(apart[:4]) < 0.05, apart  # later on, other candidates train differently
    caplog.clear()
    kept = tiny_trainer(tmp_path / "kept", optim_args=args, **given)
    kept.train(resume_from_checkpoint=checkpoint)
    assert [beta1 for beta1, _ in kept.optimizer.param_groups[0]["betas"]] == [0.8, 0.9]
    assert "optimizer state loaded: " in caplog.text
