"""A run that moves from backend to backend, and between numbers of processes, by Trainer's checkpoints."""

import json
import logging
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from gap_hf.choices import read_choices
from gap_hf.cli import app
from gap_hf.portable import FOLDER
from gap_hf.trainer.resume import warn_of_batch_size

from ..scripts.move import STEPS, train
from ..tiny import needs_compiler, run, tiny_trainer

pytestmark = pytest.mark.timeout(600)

ROUTES = {
    "across": [("zero3", 2, 5), ("zero2", 2, 10), ("fsdp2", 2, 15), ("single", 1, 20), ("zero1", 2, STEPS)],
    "and back": [("single", 1, 4), ("fsdp1", 4, 8), ("zero3", 4, 12), ("zero3", 2, 16), ("ddp", 2, STEPS)],
    "more": [("fsdp2", 4, 6), ("fsdp1", 2, 12), ("zero2", 4, 18), ("zero2", 2, 22), ("fsdp2", 2, STEPS)],
}
"""Layouts, numbers of processes, and up to which step."""


def go(layout: str, processes: int, stop: int, output, *more: str):
    """Go on in a layout; give what the processes printed."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    command = [*torchrun, "-m", "tests.scripts.move", layout, stop, output, *more]
    return run(command, DS_ACCELERATOR="cpu", ACCELERATE_TORCH_DEVICE="cpu", CUDA_VISIBLE_DEVICES="")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run without a pause, in one process."""
    output = tmp_path_factory.mktemp("whole")
    train("single", STEPS, output, portable=False)
    return output


def losses(output) -> list[float]:
    state = json.loads((output / f"checkpoint-{STEPS}/trainer_state.json").read_text())
    return [log["loss"] for log in state["log_history"] if "loss" in log]


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=() if name == "across" else pytest.mark.slow) for name in ROUTES]
)
def moved(request, tmp_path_factory):
    """The run that moves along a route."""
    output = tmp_path_factory.mktemp("moved")
    for n, (layout, processes, stop) in enumerate(ROUTES[request.param]):
        done = go(layout, processes, stop, output)
        assert done.returncode == 0, done.stderr[-4000:]
        assert (f"goes on from {output}/checkpoint" in done.stderr) == (n > 0), done.stderr[-2000:]
    return ROUTES[request.param], output


@needs_compiler
def test_it_ends_as_if_it_had_never_moved(whole, moved):
    _, output = moved
    mine, reference = read_choices(output), read_choices(whole)
    assert len({*reference.choices.ravel().tolist()}) > 1
    assert mine.choices.tolist() == reference.choices.tolist()
    assert losses(output) == pytest.approx(losses(whole), rel=1e-4)
    found = load_file(output / f"checkpoint-{STEPS}" / FOLDER / "weights-00000.safetensors")
    expected = load_file(whole / f"checkpoint-{STEPS}" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_what_is_made_of_the_backends_own_files_is_the_same(moved, tmp_path):
    """Bit for bit what the run wrote beside them."""
    route, output = moved
    for layout, processes, stop in route:
        checkpoint, folder = output / f"checkpoint-{stop}", tmp_path / str(stop)
        call("convert", checkpoint, "--out", folder)
        wrote, made = (json.loads((path / "index.json").read_text()) for path in (checkpoint / FOLDER, folder))
        assert wrote["param_groups"] == made["param_groups"]
        assert wrote["steps"] == made["steps"]
        assert made["note"]["layout"] in wrote["note"]["layout"]  # whether it was FSDP1 or 2 can't be told
        for file in {*wrote["files"].values(), *wrote["weights"].values()}:
            of, by = load_file(checkpoint / FOLDER / file), load_file(folder / file)
            assert of.keys() == by.keys(), (layout, file)
            assert all(torch.equal(value, by[name]) for name, value in of.items()), (layout, file)
        shown = call("show", checkpoint)
        assert made["note"]["layout"] + f", {processes} processes" * layout.startswith("zero") + "\n" in shown
        assert "0.5:0.8:0.95" in shown


def call(command: str, checkpoint, *more) -> str:
    """What ``gap-hf checkpoint`` prints."""
    given = ["checkpoint", command, str(checkpoint), *map(str, more)]
    result = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def damage(path, change) -> None:
    saved = torch.load(path, weights_only=False)
    change(saved["optimizer_state_dict"])
    torch.save(saved, path)


def swap(saved) -> None:
    """What round_robin_gradients does: the places are those of other parameters."""
    first, *_ = saved["param_slice_mappings"]
    (a, at), (b, by) = list(first.items())[:2]
    start = saved["single_partition_of_fp32_groups"][0]
    assert not torch.equal(start[: by.numel], start[at.numel : at.numel + by.numel])
    first[a], first[b] = type(at)(at.numel, by.numel), type(by)(by.numel, 0)


DAMAGES = {
    "a missing rank": (lambda path: path.unlink(), "lacks files: it has the states of ranks [1]"),
    "no rank's": (lambda path: [p.unlink() for p in path.parent.glob("*optim*")], "has the states of ranks []"),
    "no pickle": (lambda path: path.write_bytes(b"PK nothing"), "can't be read"),
    "a shorter place": (
        lambda path: damage(path, lambda saved: saved["param_slice_mappings"][1].popitem()),
        "elements; its fragments on 2 ranks make",
    ),
    "no places": (lambda path: damage(path, lambda saved: saved.pop("param_slice_mappings")), "KeyError"),
    "another optimizer's": (
        lambda path: damage(
            path, lambda saved: [g.pop("negative_steps") for g in saved["base_optimizer_state"]["param_groups"]]
        ),
        "is not a gap optimizer's",
    ),
    "another buffer": (
        lambda path: damage(path, lambda saved: saved["base_optimizer_state"]["state"][0].pop("exp_avg_1")),
        "exp_avg_0, exp_avg_2, exp_avg_sq_0, which no optimizer of gap_hf keeps",
    ),
    "round robin": (lambda path: damage(path, swap), "is not as in the model. With round_robin_gradients"),
}


@needs_compiler
@pytest.mark.parametrize("moved", ["across"], indirect=True, scope="module")  # two ranks wrote its files
@pytest.mark.parametrize("which", DAMAGES)
def test_damaged_files_of_deepspeed_are_refused(moved, tmp_path, which):
    route, output = moved
    step = next(stop for layout, _, stop in route if layout == "zero2")
    shutil.copytree(output / f"checkpoint-{step}", tmp_path / "checkpoint")
    shutil.rmtree(tmp_path / "checkpoint" / FOLDER)
    (first,) = (tmp_path / "checkpoint").glob("*/zero_pp_rank_0_mp_rank_00_optim_states.pt")
    harm, said = DAMAGES[which]
    harm(first)
    result = CliRunner().invoke(app, ["checkpoint", "convert", str(tmp_path / "checkpoint")])
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "checkpoint" / FOLDER).exists()


def test_in_the_same_layout_the_backends_own_files_are_used(tmp_path, caplog):
    """Bit for bit as without it."""
    ends = []
    for name, portable in (("with", True), ("without", False)):
        train("single", 6, tmp_path / name, portable)
        ends.append(train("single", STEPS, tmp_path / name, portable).model.state_dict())
    assert "goes on from" not in caplog.text
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert not (tmp_path / "without" / "checkpoint-6" / FOLDER).exists()


def as_if_moved(tmp_path) -> None:
    """A checkpoint as FSDP2 on two processes would have written it."""
    train("single", 4, tmp_path)
    index = tmp_path / "checkpoint-4" / FOLDER / "index.json"
    found = json.loads(index.read_text())
    assert found["note"] == {"layout": "whole parameters", "processes": 1}
    index.write_text(json.dumps({**found, "note": {"layout": "FSDP2", "processes": 2}}))


def test_it_says_so(tmp_path, caplog):
    as_if_moved(tmp_path)
    with caplog.at_level(logging.WARNING):
        train("single", 6, tmp_path)
    assert (
        "checkpoint-4 was written by FSDP2 on 2 processes; this run (whole parameters, 1) goes on from" in caplog.text
    )


def test_without_a_schedule(tmp_path):
    as_if_moved(tmp_path)
    (tmp_path / "checkpoint-4/scheduler.pt").unlink()
    with pytest.raises(ValueError, match=r"scheduler\.pt is missing, so the learning rate's schedule can't go on"):
        train("single", 6, tmp_path)


def test_damaged(tmp_path):
    train("single", 4, tmp_path)
    (tmp_path / "checkpoint-4" / FOLDER / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"gap_portable is damaged \(JSONDecodeError.*; remove it to resume"):
        train("single", 6, tmp_path)


def test_only_what_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="portable='maybe' can't be read; expected portable=true or portable=false"):
        tiny_trainer(tmp_path, optim_args="portable=maybe").train()


def test_a_batch_size_that_trainer_takes_from_the_checkpoint_is_told(tmp_path, caplog):
    """As transformers does before 5.5; where the two are the same, there is nothing to tell."""
    trainer = tiny_trainer(tmp_path, per_device_train_batch_size=4)
    warn_of_batch_size(trainer, tmp_path)
    assert not caplog.text
    trainer._train_batch_size = 2
    warn_of_batch_size(trainer, tmp_path)
    assert f'set "train_batch_size" to 4 in {tmp_path}' in caplog.text
