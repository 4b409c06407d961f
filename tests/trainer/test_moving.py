"""A run that moves from backend to backend, and between numbers of processes, by Trainer's checkpoints."""

import json
import logging
import sys

import pytest
import torch
from safetensors.torch import load_file

from gap_hf.choices import read_choices
from gap_hf.trainer.resume import FOLDER

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


@needs_compiler
@pytest.mark.parametrize(
    "route", [pytest.param(name, marks=() if name == "across" else pytest.mark.slow) for name in ROUTES]
)
def test_it_ends_as_if_it_had_never_moved(whole, tmp_path, route):
    before = None
    for layout, processes, stop in ROUTES[route]:
        done = go(layout, processes, stop, tmp_path)
        assert done.returncode == 0, done.stderr[-4000:]
        assert (f"goes on from {tmp_path}/checkpoint" in done.stderr) == (before is not None), done.stderr[-2000:]
        before = layout
    mine, reference = read_choices(tmp_path), read_choices(whole)
    assert len({*reference.choices.ravel().tolist()}) > 1
    assert mine.choices.tolist() == reference.choices.tolist()
    assert losses(tmp_path) == pytest.approx(losses(whole), rel=1e-4)
    found = load_file(tmp_path / f"checkpoint-{STEPS}" / FOLDER / "weights-00000.safetensors")
    expected = load_file(whole / f"checkpoint-{STEPS}" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_in_the_same_layout_the_backends_own_files_are_used(tmp_path, caplog):
    """Bit for bit as without it."""
    ends = []
    for name, portable in (("with", True), ("without", False)):
        train("single", 6, tmp_path / name, portable)
        ends.append(train("single", STEPS, tmp_path / name, portable).model.state_dict())
    assert "goes on from" not in caplog.text
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert not (tmp_path / "without" / "checkpoint-6" / FOLDER).exists()


def moved(tmp_path) -> None:
    """A checkpoint as FSDP2 on two processes would have written it."""
    train("single", 4, tmp_path)
    index = tmp_path / "checkpoint-4" / FOLDER / "index.json"
    found = json.loads(index.read_text())
    assert found["note"] == {"layout": "whole parameters", "processes": 1}
    index.write_text(json.dumps({**found, "note": {"layout": "FSDP2", "processes": 2}}))


def test_it_says_so(tmp_path, caplog):
    moved(tmp_path)
    with caplog.at_level(logging.WARNING):
        train("single", 6, tmp_path)
    assert (
        "checkpoint-4 was written by FSDP2 on 2 processes; this run (whole parameters, 1) goes on from" in caplog.text
    )


def test_without_a_schedule(tmp_path):
    moved(tmp_path)
    (tmp_path / "checkpoint-4/scheduler.pt").unlink()
    with pytest.raises(ValueError, match=r"scheduler\.pt is missing, so the learning rate's schedule can't go on"):
        train("single", 6, tmp_path)


def test_damaged(tmp_path):
    train("single", 4, tmp_path)
    (tmp_path / "checkpoint-4" / FOLDER / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"gap_portable is damaged \(JSONDecodeError.*; remove it to resume"):
        train("single", 6, tmp_path)


def test_only_what_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="portable='maybe' can't be read; expected portable=true or false"):
        tiny_trainer(tmp_path, optim_args="portable=maybe").train()
