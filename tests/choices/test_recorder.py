"""``Recorder`` in a loop of one's own."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import gap_hf
from gap_hf.candidate import Candidate
from gap_hf.choices import read_choices

BETAS = [(0.5, 0.999), (0.99, 0.999)]


def build(type: str = "switch_parameter_wise", **options) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    options = {"lr": 0.01, "betas": BETAS, "hysteresis_threshold": 1} | options
    return model, gap_hf.GapAdamW(model.parameters(), type=type, **options)


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
    assert list(found) == [
        "gap/share_short memory", "gap/share_long_memory", "gap/dominance", "gap/changed", "gap/resets",
        "gap/correlation",
    ]  # fmt: skip
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


# ---------------------------------------------------------------- mixes
def record(tmp_path, model, optimizer, steps: int = 12, **options) -> tuple[list, dict[str, float]]:
    """Every step's weights as the optimizer left them, group by group, and the summary."""
    seen = []
    with gap_hf.Recorder(optimizer, model, tmp_path, **options) as recorder:
        for step, _ in enumerate(train(model, optimizer, steps), options.get("start", 0) + 1):
            seen.append([group["last_weights"] for group in optimizer.param_groups])
            recorder.add(step)
        return seen, recorder.summary()


@pytest.mark.parametrize("type", ["mix", "mix_parameter_wise"])
def test_weights_that_follow_the_scores(tmp_path, type):
    """In the file as they were, but for its digits; in the log as they were."""
    model, optimizer = build(type, weights="score")
    seen, found = record(tmp_path, model, optimizer)
    seen = np.array(seen).reshape(12, -1, 2)
    choices = read_choices(tmp_path)
    assert choices.weights == pytest.approx(seen, abs=0.5 / 35 + 1e-6 if choices.per_parameter else 1e-4)
    assert choices.choices.tolist() == seen.argmax(axis=2).tolist()
    assert len(np.unique(seen[..., 0])) > 10, "they do follow"
    means = seen.mean(axis=(0, 1))
    assert found["gap/weight_0.5"] == pytest.approx(means[0], abs=1e-6)
    assert found["gap/weight_0.99"] == pytest.approx(means[1], abs=1e-6)
    assert found["gap/dominance"] == max(found["gap/weight_0.5"], found["gap/weight_0.99"])
    assert found["gap/beta1"] == pytest.approx(means @ [0.5, 0.99], abs=1e-6)
    assert not [key for key in found if "share" in key]


@pytest.mark.parametrize("type", ["mix", "mix_parameter_wise"])
def test_constant_weights(tmp_path, type):
    model, optimizer = build(type, weights=[0.3, 0.7])
    _, found = record(tmp_path, model, optimizer)
    choices = read_choices(tmp_path)
    assert np.unique(choices.weights).tolist() == [np.float32(0.3), np.float32(0.7)]
    assert choices.weights.shape == (12, 4 if choices.per_parameter else 1, 2)
    assert (choices.choices == 1).all()
    assert {key: value for key, value in found.items() if key != "gap/correlation"} == {
        "gap/beta1": pytest.approx(0.3 * 0.5 + 0.7 * 0.99),
        "gap/weight_0.5": 0.3,
        "gap/weight_0.99": 0.7,
        "gap/dominance": 0.7,
        "gap/changed": 0,
        "gap/resets": 0,
    }


@pytest.mark.parametrize("type", ["mix", "mix_parameter_wise"])
@pytest.mark.parametrize("weights", [[0.3, 0.7], "score"])
def test_groups_of_their_own(tmp_path, type, weights):
    """Counted by the number of their parameters, under each group's own keys, too; an empty one is left out."""
    model, _ = build()
    weight, *others = model.parameters()
    groups = [{"params": [weight]}, {"params": []}, {"params": others}]
    optimizer = gap_hf.GapAdamW(groups, lr=0.01, betas=BETAS, type=type, weights=weights)
    seen, found = record(tmp_path, model, optimizer, per_group=True)
    of_group = [np.array([row[g] for row in seen]).reshape(12, -1, 2).mean(axis=(0, 1)) for g in (0, 2)]
    for g in (0, 1):
        assert found[f"gap/group{g}/weight_0.5"] == pytest.approx(of_group[g][0], abs=1e-6)
    assert found["gap/weight_0.5"] == pytest.approx((of_group[0][0] + 3 * of_group[1][0]) / 4, abs=1e-6)
    assert read_choices(tmp_path).weights.shape == (12, 4 if "wise" in type else 1, 2)


def test_constant_weights_that_a_resume_has_changed(tmp_path):
    """They are an option of the new run: neither the file nor the log has those of the checkpoint."""
    model, optimizer = build("mix", weights=[0.3, 0.7])
    record(tmp_path, model, optimizer, steps=3)
    saved = optimizer.state_dict()
    _, again = build("mix", weights=[0.9, 0.1])
    again.load_state_dict(saved)
    again.param_groups[0]["params"], model = list(model.parameters()), model
    _, found = record(tmp_path, model, again, steps=2, start=3)
    assert found["gap/weight_0.5"] == 0.9
    assert read_choices(tmp_path).weights[:, 0, 0] == pytest.approx([0.3] * 3 + [0.9] * 2)


# ---------------------------------------------------------------- how successive gradients agree
def test_correlation_is_logged_from_the_second_step_on(tmp_path):
    model, optimizer = build()
    gradients, found = [], []
    with gap_hf.Recorder(optimizer, model, tmp_path) as recorder:
        for step, _ in enumerate(train(model, optimizer, 6), 1):
            gradients.append([p.grad.flatten().double().numpy().copy() for p in model.parameters()])
            recorder.add(step)
            if step in (1, 3, 6):
                found.append(recorder.summary().get("gap/correlation"))
    cosines = [
        np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(before, now, strict=True)])
        for before, now in pairwise(gradients)
    ]
    assert found == [None, pytest.approx(np.mean(cosines[:2]), abs=1e-5), pytest.approx(np.mean(cosines[2:]), abs=1e-5)]


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
