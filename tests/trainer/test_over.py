"""Whole optimizers as candidates under Trainer."""

import json

import pytest
import torch
import yaml

from gap_hf.choices import read_choices

from ..tiny import tiny_trainer

FOUR = "type=switch_parameter_wise,candidates=adamw:lion/lr_scale/0.1:adabelief:ademamix"
SETTINGS = {"optim": "gap_over", "learning_rate": 0.01, "max_steps": 12, "logging_steps": 1, "save_steps": 6}


def test_a_run_and_its_second_half_again(tmp_path):
    """The logs name the candidates; a resumed run is the same, bit for bit."""
    given = {**SETTINGS, "optim_args": FOUR, "save_strategy": "steps"}
    whole = tiny_trainer(tmp_path / "whole", **given)
    whole.train()
    shares = {key for log in whole.state.log_history for key in log if key.startswith("gap/share")}
    assert shares == {f"gap/share_{name}" for name in ("adamw", "lion", "adabelief", "ademamix")}
    chosen = read_choices(tmp_path / "whole")
    assert (chosen.candidate, chosen.labels[0]) == ("optimizer", ["adamw", "lion", "adabelief", "ademamix"])
    assert len({*chosen.choices.ravel().tolist()}) > 1
    rest = tiny_trainer(tmp_path / "rest", **given)
    rest.train(resume_from_checkpoint=f"{tmp_path}/whole/checkpoint-6")
    for (name, p), (_, q) in zip(whole.model.named_parameters(), rest.model.named_parameters(), strict=True):
        assert torch.equal(p, q), name
    logs = (whole.state.log_history, rest.state.log_history)
    losses = [[log["loss"] for log in history if log["step"] > 6 and "loss" in log] for history in logs]
    assert losses[0] == losses[1]


def test_candidates_from_a_file_are_kept_as_text(tmp_path):
    """A checkpoint does not depend on the file."""
    path = tmp_path / "candidates.yaml"
    path.write_text(yaml.safe_dump(["adamw", {"name": "lion", "lr_scale": 0.1, "betas": [0.9, 0.98]}]))
    optimizer = tiny_trainer(tmp_path, optim="gap_over", optim_args=f"candidates={path}").create_optimizer()
    assert optimizer.param_groups[0]["candidates"] == "adamw:lion/lr_scale/0.1/betas/0.9|0.98"
    json.dumps(optimizer.param_groups[0]["candidates"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (None, 'needs candidates; for example optim_args="candidates=adamw:lion'),
        ("candidates=adamw:lbfgs", "lbfgs can't be a candidate: its step failed"),
        ("candidates=adamw:lionn", "did you mean 'lion'"),
        ("candidates=adamw,score=fair", "score='fair' is out of range; expected 'next', 'decrease', 'rms' or 'gap'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, args, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        tiny_trainer(tmp_path, optim="gap_over", optim_args=args).create_optimizer()
    assert message in str(error.value)
