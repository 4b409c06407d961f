"""``Recorder`` in a loop of one's own."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import gap_hf
from gap_hf.candidate import Candidate
from gap_hf.choices import read_choices

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


class Unvalued(gap_hf.GapAdamW):
    """Its candidates have names, and one of them no value."""

    def candidate_list(self, group):
        return [Candidate("short memory", 0.5, "adam"), Candidate("long/memory", None, "other")]


@pytest.mark.parametrize("type", ["switch", "switch_parameter_wise"])
def test_candidate_without_a_value(tmp_path, type):
    """There is no mean then; everything else is as before."""
    model, _ = build()
    optimizer = Unvalued(model.parameters(), lr=0.01, betas=BETAS, type=type)
    with gap_hf.Recorder(optimizer, model, tmp_path) as recorder:
        for step, _ in enumerate(train(model, optimizer, 8), 1):
            recorder.add(step)
        found = recorder.summary()
    assert list(found) == ["gap/share_short memory", "gap/share_long_memory", "gap/changed", "gap/resets"]
    choices = read_choices(tmp_path)
    assert set(map(tuple, choices.candidates)) == {tuple(optimizer.candidate_list({}))}
    assert found["gap/share_short memory"] == pytest.approx((choices.choices == 0).mean(), abs=1e-6)
    assert sum(list(found.values())[:2]) == pytest.approx(1, abs=1e-6)


def test_values_are_exact_where_labels_are_short(tmp_path):
    """Two candidates of the same label share a key; the mean is of what was applied."""
    model, _ = build()
    momenta = [0.12345678, 0.123456781]
    optimizer = gap_hf.SGDM(model.parameters(), lr=0.01, momentum=momenta, type="switch")
    with gap_hf.Recorder(optimizer, model, tmp_path) as recorder:
        for step, _ in enumerate(train(model, optimizer, 3), 1):
            recorder.add(step)
        found = recorder.summary()
    assert found["gap/share_0.123457"] == 1
    assert found["gap/momentum"] == 0.123457
    assert [candidate.value for candidate in read_choices(tmp_path).candidates[0]] == momenta


@pytest.mark.parametrize("type", ["switch", "switch_parameter_wise"])
def test_more_candidates_than_the_file_holds(tmp_path, caplog, type):
    model, _ = build()
    momenta = [k / 40 for k in range(37)]
    optimizer = gap_hf.SGDM(model.parameters(), lr=0.01, momentum=momenta, type=type)
    with gap_hf.Recorder(optimizer, model, tmp_path) as recorder:
        for step, _ in enumerate(train(model, optimizer, 3), 1):
            recorder.add(step)
        assert len([key for key in recorder.summary() if "share" in key]) == 37
    (record,) = caplog.records
    assert "the choices file holds up to 36 candidates, and this optimizer has 37" in record.getMessage()
    assert not list(tmp_path.iterdir())


def test_what_has_no_choices(tmp_path):
    model, _ = build()
    with pytest.raises(TypeError, match="AdamW is not a gap optimizer"):
        gap_hf.Recorder(torch.optim.AdamW(model.parameters()), model, tmp_path)
    with pytest.raises(ValueError, match="type='default' chooses nothing"):
        gap_hf.Recorder(gap_hf.GapAdamW(model.parameters(), type="default"), model, tmp_path)
