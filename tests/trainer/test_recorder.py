"""``Recorder`` in a loop of one's own."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import gap_hf
from gap_hf.trainer.record import read_choices

BETAS = [(0.5, 0.999), (0.99, 0.999)]


def build(type: str = "switch_parameter_wise") -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    return model, gap_hf.GapAdamW(model.parameters(), lr=0.01, betas=BETAS, type=type, hysteresis_threshold=1)


def train(model, optimizer, steps: int) -> None:
    for _ in range(steps):
        x = torch.randn(16, 4)
        optimizer.zero_grad()
        (model(x) - x.sin().sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        yield optimizer.param_groups[0]["last_choice"]


@pytest.mark.parametrize("type", ["switch", "switch_parameter_wise"])
def test_file_and_summary(tmp_path, type):
    model, optimizer = build(type)
    seen = []
    with gap_hf.Recorder(optimizer, model, tmp_path / "new") as recorder:
        for step, choices in enumerate(train(model, optimizer, 20), 1):
            seen.append(choices if isinstance(choices, list) else [choices])
            recorder.add(step)
        found = recorder.summary()
    choices = read_choices(tmp_path / "new")
    assert choices.choices.tolist() == seen
    assert np.isfinite(choices.margins[1:]).all()
    expected = np.where(np.array(seen) == 0, 0.5, 0.99).mean()
    assert found["gap/beta1"] == pytest.approx(expected, abs=1e-6)
    assert found["gap/share_0.5"] == pytest.approx((np.array(seen) == 0).mean(), abs=1e-6)
    assert found["gap/resets"] == len(choices.resets)
    if type == "switch_parameter_wise":
        assert choices.parameters == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_step_that_was_skipped_leaves_no_line(tmp_path):
    model, optimizer = build()
    with gap_hf.Recorder(optimizer, model, tmp_path) as recorder:
        for step, _ in enumerate(train(model, optimizer, 3), 1):
            recorder.add(2 * step - 1)
            recorder.add(2 * step)  # no step of the optimizer in between
    assert read_choices(tmp_path).steps.tolist() == [1, 3, 5]


def test_going_on(tmp_path):
    model, optimizer = build()
    with gap_hf.Recorder(optimizer, model, tmp_path) as recorder:
        for step, _ in enumerate(train(model, optimizer, 6), 1):
            recorder.add(step)
    first = read_choices(tmp_path).choices
    with gap_hf.Recorder(optimizer, model, tmp_path, start=4) as recorder:
        for step, _ in enumerate(train(model, optimizer, 3), 5):
            recorder.add(step)
    both = read_choices(tmp_path)
    assert both.steps.tolist() == list(range(1, 8))
    assert both.choices[:4].tolist() == first[:4].tolist()


def test_wrapped_by_accelerate_and_without_a_file(tmp_path):
    model, optimizer = Accelerator(cpu=True).prepare(*build())
    with gap_hf.Recorder(optimizer, model, tmp_path, record=False) as recorder:
        for step, _ in enumerate(train(model, optimizer, 3), 1):
            recorder.add(step)
        assert recorder.summary()["gap/changed"] >= 0
    assert not list(tmp_path.iterdir())


def test_what_has_no_choices(tmp_path):
    model, _ = build()
    with pytest.raises(TypeError, match="AdamW is not a gap optimizer"):
        gap_hf.Recorder(torch.optim.AdamW(model.parameters()), model, tmp_path)
    with pytest.raises(ValueError, match="type='default' chooses nothing"):
        gap_hf.Recorder(gap_hf.GapAdamW(model.parameters(), type="default"), model, tmp_path)
