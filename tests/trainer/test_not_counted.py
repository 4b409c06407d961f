"""Steps whose scores are not finite: the choice before stands, and the logs and a warning say so."""

import pytest
import torch
from transformers import TrainerCallback

import gap_hf
from gap_hf.choices import read_choices

from ..choices.test_recorder import build, train
from ..tiny import tiny_trainer
from .test_callback import gap_logs, spring_trainer


class Spoil(TrainerCallback):
    """Puts a value into one gradient, before that step."""

    def __init__(self, step: int, name: str, value: float) -> None:
        self.step, self.name, self.value = step, name, value

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        if state.global_step == self.step - 1:
            dict(model.named_parameters())[self.name].grad.view(-1)[0] = self.value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_trainer_says_which_step_it_was(tmp_path, caplog, value):
    """Trainer itself logs a loss of 0."""
    name = "model.layers.1.mlp.up_proj.weight"
    options = {"optim_args": "betas=0.5:0.6:0.9", "learning_rate": 0.3, "max_grad_norm": 0.0}
    trainer = tiny_trainer(tmp_path, callbacks=[Spoil(6, name, value)], **options)
    trainer.train()
    logged = gap_logs(trainer)
    P = sum(1 for _ in trainer.model.parameters())
    assert "gap/not_counted" not in logged[4]
    assert logged[8]["gap/not_counted"] == 1 + 2 * P, "the weights hold NaN then, and so does every gradient"
    (record,) = (record for record in caplog.records if record.name.startswith("gap_hf"))
    assert f"step 6: 1 of {P} gradients held NaN or infinity" in record.getMessage()
    choices = read_choices(tmp_path)
    spoiled = choices.parameters.index(name)
    assert (choices.choices[5:, spoiled] == choices.choices[4, spoiled]).all()
    assert (choices.choices[6:] == choices.choices[5]).all()


def test_switch_counts_steps(tmp_path, caplog):
    trainer = spring_trainer(tmp_path, max_steps=10)
    trainer.add_callback(Spoil(8, "spring.bias", float("nan")))
    trainer.train()
    logged = gap_logs(trainer)
    assert not [key for key in logged[5] if "not_counted" in key]
    for prefix in ("gap/", "gap/group0/", "gap/group1/"):
        assert logged[10][f"{prefix}not_counted"] == 3
    assert "step 8: the gradients held NaN or infinity" in caplog.text
    assert len([record for record in caplog.records if record.name.startswith("gap_hf")]) == 1


@pytest.mark.parametrize("type", ["switch", "switch_parameter_wise"])
def test_unused_parameter_is_none_of_these(tmp_path, caplog, type):
    """It has no gradient, which is no fault; neither are gradients of zeros."""
    model, optimizer = build(type)
    unused, zero = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [unused, zero]})
    model.unused, model.zero = unused, zero
    with gap_hf.Recorder(optimizer, model, tmp_path) as recorder:
        for step, _ in enumerate(train(model, optimizer, 3), 1):
            recorder.add(step)
            zero.grad = torch.zeros(3)
        assert "gap/not_counted" not in recorder.summary()
    assert caplog.text == ""


def test_each_window_counts_its_own(tmp_path, caplog):
    """A parameter that nothing depends on holds NaN for good; the others go on choosing. It is told once."""
    model, optimizer = build()
    model.alone = torch.nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [model.alone]})
    recorder = gap_hf.Recorder(optimizer, model, tmp_path, per_group=True)
    found = []
    for step in range(1, 7):
        model.alone.grad = torch.full((3,), float("nan") if step > 3 else 1.0)
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        recorder.add(step)
        if step % 2 == 0:
            found.append(recorder.summary())
    recorder.close()
    for prefix, expected in (("gap/", [None, 1, 2]), ("gap/group1/", [None, 1, 2]), ("gap/group0/", [None] * 3)):
        assert [summary.get(f"{prefix}not_counted") for summary in found] == expected
    assert len(caplog.records) == 1
    assert "step 4: 1 of 5 gradients" in caplog.text


def test_steps_that_the_loss_scaler_left_out(tmp_path):
    model, optimizer = build()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with gap_hf.Recorder(optimizer, model, tmp_path) as recorder:
        for step, size in enumerate([1.0, float("inf"), 1.0, float("inf")], 1):
            optimizer.zero_grad()
            scaler.scale(model(torch.full((1, 4), size)).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            recorder.add(step)
        assert recorder.summary()["gap/skipped"] == 2
        assert "gap/skipped" not in recorder.summary()
    assert read_choices(tmp_path).steps.tolist() == [1, 3]
