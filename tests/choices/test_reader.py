"""Choices files read back: whole, cut short, continued."""

import json
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.trainer_utils import get_last_checkpoint

from gap_hf.choices import read_choices
from gap_hf.choices.format import FILENAME, HeaderGroup
from gap_hf.choices.writer import ChoiceWriter

from ..tiny import SCRIPTS, start, stop, tiny_data, tiny_trainer
from .files import CONSTANT, HEADER, MIX, SWITCH, WISE_MIX, adams, rewrite, write, write_mix, write_three_steps


def test_round_trip(tmp_path):
    write_three_steps(tmp_path)
    for path in (tmp_path, tmp_path / FILENAME, str(tmp_path)):
        choices = read_choices(path)
        assert (choices.type, choices.candidate) == ("switch_parameter_wise", "beta1")
        assert choices.steps.tolist() == [1, 2, 3]
        assert choices.choices.tolist() == [[0, 1, 2], [1, 1, 0], [1, 0, 1]]
        assert choices.parameters == ["a.weight", "b.weight", "a.bias"]
        assert choices.candidates == [HEADER.groups[0].candidates] * 2 + [HEADER.groups[1].candidates]
        assert choices.labels == [["0.8", "0.99"], ["0.8", "0.99"], ["0.5", "0.9", "0.95"]]
        assert choices.resets == [(2, 1), (2, 2)]


def test_round_trip_of_switch(tmp_path):
    writer = ChoiceWriter(tmp_path / "new" / FILENAME, SWITCH)
    writer.write(1, [1, 1], False, [0.123456789, float("nan")])
    writer.write(2, [0, 0], True, [float("inf"), -1e-20])
    writer.close()
    choices = read_choices(tmp_path / "new")
    assert choices.choices.tolist() == [[1], [0]]
    assert (choices.parameters, choices.labels) == (["all parameters"], [["0.8", "0.99"]])
    assert choices.resets == [(2, 0)]
    first, second = map(json.loads, (tmp_path / "new" / FILENAME).read_text().splitlines()[1:])
    assert (first["J"], second["J"]) == ([0.123457, None], [None, -1e-20])  # strict JSON has no NaN


def random_weights(*shape: int, seed: int = 0) -> np.ndarray:
    weights = np.random.default_rng(seed).random(shape)
    return weights / weights.sum(axis=-1, keepdims=True)


def test_round_trip_of_a_mix(tmp_path):
    """One set of weights for all: written with four digits."""
    rows = random_weights(5, 2)
    write_mix(tmp_path, MIX, [[row, row] for row in rows])
    choices = read_choices(tmp_path)
    assert choices.weights.shape == (5, 1, 2)
    assert choices.weights.dtype == np.float32
    assert choices.weights[:, 0] == pytest.approx(rows, rel=1e-3)
    assert choices.choices[:, 0].tolist() == rows.argmax(axis=1).tolist()
    assert np.isnan(choices.margins).all(), "nothing wins"
    assert choices.parameters == ["all parameters"]
    assert not choices.per_parameter


def test_round_trip_of_a_parameter_wise_mix(tmp_path):
    """In 35ths, which add up to 1 again; a candidate that a parameter does not have has weight 0."""
    rows = [[random_weights(2, 2, seed=step), random_weights(1, 3, seed=step)] for step in range(5)]
    write_mix(tmp_path, WISE_MIX, rows)
    choices = read_choices(tmp_path)
    assert choices.weights.shape == (5, 3, 3)
    assert choices.weights.sum(axis=2) == pytest.approx(np.ones((5, 3)))
    for found, (first, second) in zip(choices.weights, rows, strict=True):
        assert found[:2, :2] == pytest.approx(first, abs=1 / 35)
        assert found[2] == pytest.approx(second[0], abs=1.5 / 35)
        assert found[:2, 2].tolist() == [0, 0]
    assert np.isnan(choices.margins).all()
    assert choices.per_parameter


def test_round_trip_of_constant_weights(tmp_path):
    """They stand in the header, exactly, and in no line."""
    write(tmp_path, CONSTANT, [(1, [1, 1], False), (2, [1, 1], False)])
    assert read_choices(tmp_path).weights.tolist() == [[[np.float32(0.3), np.float32(0.7)]]] * 2
    assert (tmp_path / FILENAME).read_text().count("weights") == 2
    # of each parameter: the group's
    groups = [group._replace(weights=[1 / len(group.candidates)] * len(group.candidates)) for group in HEADER.groups]
    write(tmp_path, WISE_MIX._replace(groups=groups), [(1, [[0, 0], [0]], [])])
    assert read_choices(tmp_path).weights[0] == pytest.approx(np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [1 / 3] * 3]))


def test_resumed_with_other_weights(tmp_path):
    """Each step has those of its own header, or its own."""
    write(tmp_path, CONSTANT, [(1, [1, 1], False), (2, [1, 1], False)])
    other = CONSTANT._replace(start=1, groups=[group._replace(weights=[0.9, 0.1]) for group in MIX.groups])
    write(tmp_path, other, [(2, [0, 0], False)])
    writer = ChoiceWriter(tmp_path / FILENAME, MIX._replace(start=2))
    writer.write(3, [0, 0], False, [1.0, 1.0], None, [np.array([0.5, 0.5])] * 2)
    writer.close()
    choices = read_choices(tmp_path)
    assert choices.steps.tolist() == [1, 2, 3]
    assert choices.weights[:, 0] == pytest.approx(np.array([[0.3, 0.7], [0.9, 0.1], [0.5, 0.5]]))


def test_what_picks_has_no_weights(tmp_path):
    write_three_steps(tmp_path)
    assert read_choices(tmp_path).weights is None


@pytest.mark.parametrize("type", ["first", "random", "random_parameter_wise"])
def test_round_trip_of_controls(tmp_path, type):
    together = "wise" not in type
    header = (SWITCH if together else HEADER)._replace(type=type)
    write(tmp_path, header, [(1, [1, 1] if together else [[1, 0], [2]], [])])
    choices = read_choices(tmp_path)
    assert (choices.type, choices.per_parameter, choices.weights) == (type, not together, None)
    assert choices.choices.tolist() == [[1]] if together else [[1, 0, 2]]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_mix_round_trips(tmp_path_factory, data):
    """However many candidates: the weights are off by their rounding at most, and add up to 1."""
    sizes = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 36)), min_size=1, max_size=3))
    steps, seed = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 99))
    sharp = data.draw(st.sampled_from([0.1, 1.0, 10.0]))
    rng = np.random.default_rng(seed)
    rows = [[rng.dirichlet([sharp] * k, size=n) for n, k in sizes] for _ in range(steps)]
    groups = [HeaderGroup(adams(*map(str, range(k))), [f"p{i}" for i in range(n)]) for n, k in sizes]
    path = tmp_path_factory.mktemp("run")
    write_mix(path, WISE_MIX._replace(groups=groups), rows)
    choices = read_choices(path)
    P, K = sum(n for n, _ in sizes), max(k for _, k in sizes)
    assert choices.damaged == {}
    assert choices.weights.shape == (steps, P, K)
    assert choices.weights.sum(axis=2) == pytest.approx(np.ones((steps, P)), abs=1e-5)
    for found, row in zip(choices.weights, rows, strict=True):
        begin = 0
        for (n, k), weights in zip(sizes, row, strict=True):
            # each is off by half a digit, and by what their sum is then off
            assert found[begin : begin + n, :k] == pytest.approx(weights, abs=(1 + k) / 70 + 1e-6)
            assert not found[begin : begin + n, k:].any()
            begin += n


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_run_round_trips(tmp_path_factory, data):
    sizes = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 36)), min_size=1, max_size=3))
    steps = data.draw(st.lists(st.integers(1, 99), min_size=1, max_size=6, unique=True).map(sorted))
    rows = [[[data.draw(st.integers(0, k - 1)) for _ in range(n)] for n, k in sizes] for _ in steps]
    header = HEADER._replace(
        groups=[
            HeaderGroup(adams(*map(str, range(k))), [f"g{g}.p{i}é" for i in range(n)]) for g, (n, k) in enumerate(sizes)
        ]
    )
    path = tmp_path_factory.mktemp("run")
    write(path, header, [(step, row, []) for step, row in zip(steps, rows, strict=True)])
    choices = read_choices(path)
    assert choices.steps.tolist() == steps
    assert choices.choices.tolist() == [[c for group in row for c in group] for row in rows]
    assert choices.parameters == [name for group in header.groups for name in group.parameters]


# ---------------------------------------------------------------- cut short
def test_every_truncation_reads_up_to_the_last_whole_step(tmp_path):
    lines = write_three_steps(tmp_path)
    whole = (tmp_path / FILENAME).read_bytes()
    ends = np.cumsum([len(line.encode()) for line in lines])
    for size in range(len(whole)):
        (tmp_path / FILENAME).write_bytes(whole[:size])
        complete = sum(size >= end - 1 for end in ends[1:])  # a line that lacks only its newline is whole
        if complete:
            choices = read_choices(tmp_path)
            assert choices.steps.tolist() == list(range(1, complete + 1))
        else:
            with pytest.raises(ValueError, match="holds no steps yet"):
                read_choices(tmp_path)


def test_resume_after_a_cut_line(tmp_path):
    lines = write_three_steps(tmp_path)
    rewrite(tmp_path, [*lines[:-1], lines[-1][:9]])
    write(tmp_path, HEADER._replace(start=1), [(2, [[0, 0], [0]], []), (3, [[1, 1], [2]], [[0, 0]])])
    choices = read_choices(tmp_path)
    assert choices.choices.tolist() == [[0, 1, 2], [0, 0, 0], [1, 1, 2]]
    assert choices.resets == [(3, 0)]  # step 2's resets are superseded with it


def test_resumed_run_that_has_not_come_as_far_yet(tmp_path):
    write_three_steps(tmp_path)
    write(tmp_path, HEADER._replace(start=1), [(2, [[0, 0], [0]], [])])
    assert read_choices(tmp_path).choices.tolist() == [[0, 1, 2], [0, 0, 0]]


def test_each_step_is_on_disk_at_once(tmp_path):
    writer = ChoiceWriter(tmp_path / FILENAME, HEADER)
    for step in (1, 2):
        writer.write(step, [[0, 1], [2]], [], None)
        assert read_choices(tmp_path).steps[-1] == step
    writer.close()


def test_a_new_run_starts_anew(tmp_path):
    write_three_steps(tmp_path)
    write(tmp_path, HEADER, [(1, [[1, 1], [1]], [])])
    assert read_choices(tmp_path).choices.tolist() == [[1, 1, 1]]


def test_resume_with_other_candidates_shows_only_these(tmp_path):
    write_three_steps(tmp_path)
    write(tmp_path, SWITCH._replace(start=2), [(3, [1, 1], False), (4, [0, 0], True)])
    choices = read_choices(tmp_path)
    assert (choices.type, choices.steps.tolist()) == ("switch", [3, 4])


def test_resume_into_an_empty_directory(tmp_path):
    write(tmp_path, HEADER._replace(start=7), [(8, [[1, 1], [1]], [])])
    assert read_choices(tmp_path).steps.tolist() == [8]


# ---------------------------------------------------------------- real runs
def test_resumed_run(tmp_path):
    """The rows after the checkpoint are those of the resumed run, which learns from other data here."""
    options = {"optim_args": "betas=0.5:0.6:0.9", "learning_rate": 0.3, "lr_scheduler_type": "constant"}
    options |= {"save_strategy": "steps", "save_steps": 6, "max_steps": 10}
    tiny_trainer(tmp_path, **options).train()
    first = read_choices(tmp_path)
    assert first.steps.tolist() == list(range(1, 11))
    assert get_last_checkpoint(str(tmp_path)).endswith("checkpoint-10")

    again = tiny_trainer(tmp_path, seed=2, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    headers = [line for line in map(json.loads, (tmp_path / FILENAME).open()) if "gap_hf" in line]
    assert [header["start"] for header in headers] == [0, 6]
    second = read_choices(tmp_path)
    assert second.steps.tolist() == list(range(1, 11))
    assert (second.choices[:6] == first.choices[:6]).all()
    assert (second.choices[6:] != first.choices[6:]).any()
    last = [c for group in again.optimizer.param_groups for c in group["last_choice"]]
    assert second.choices[-1].tolist() == last


def test_resumed_run_counts_changes_from_the_checkpoint(tmp_path):
    options = {"optim_args": "betas=0.5:0.6:0.9", "learning_rate": 0.3, "lr_scheduler_type": "constant"}
    options |= {"save_strategy": "steps", "save_steps": 6, "max_steps": 7, "logging_steps": 7}
    tiny_trainer(tmp_path, **options).train()
    again = tiny_trainer(tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    (changed,) = (log["gap/changed"] for log in again.state.log_history if "gap/changed" in log)
    choices = read_choices(tmp_path).choices
    assert changed == pytest.approx((choices[6] != choices[5]).mean(), abs=1e-6)
    assert changed > 0


def test_killed_run(tmp_path):
    """SIGKILL in mid-run: every step up to then reads back."""
    endless = "--use_cpu --optim gap_adamw --max_steps 1000000 --save_strategy no --report_to none"
    script = [SCRIPTS / "rank_dirs.py", "--output_dir", tmp_path, *endless.split()]
    process = start([sys.executable, "-m", "gap_hf", *script])
    try:
        path = tmp_path / "rank0" / FILENAME
        deadline = time.monotonic() + 200
        while not path.exists() or path.read_bytes().count(b"\n") < 12:
            assert process.poll() is None, process.communicate()[1][-3000:]
            assert time.monotonic() < deadline, "no steps came"
            time.sleep(0.05)
        process.kill()
        process.wait()
    finally:
        stop(process)
    choices = read_choices(path)
    assert len(choices.steps) >= 11
    assert choices.steps.tolist() == list(range(1, len(choices.steps) + 1))
    assert choices.choices.shape == (len(choices.steps), len(choices.parameters))


def test_data_differs_by_seed():
    """What test_resumed_run relies on."""
    assert (tiny_data(seed=1)[0]["input_ids"] != tiny_data(seed=2)[0]["input_ids"]).any()
