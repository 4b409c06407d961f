"""The short version of each part of ``make torture``."""

import time

import pytest

from ..tiny import needs_compiler
from . import fuzz, gradients, interrupts, kills, long
from .launch import run
from .progress import Part

CASES = ("adamw-switch", "sgdm-wise")


def part(unit: str, total: int) -> Part:
    return Part("short", unit, total, minutes=9, quiet=True)


def test_killed_and_resumed_runs_end_alike(tmp_path):
    trials = part("trials", 3)
    kills.torture(0, 3, ["single", "ddp", "fsdp2"], trials, tmp_path)
    assert trials.lost == []
    assert trials.figures["trials"] == 3
    assert trials.figures["kills"]


@pytest.mark.parametrize(
    "layouts",
    [
        pytest.param(["single", "ddp", "fsdp1", "fsdp2", "tensor-parallel"], id="torch"),
        pytest.param(["zero1-bf16", "zero2", "zero2-fp16", "zero3"], id="deepspeed", marks=needs_compiler),
    ],
)
def test_bad_gradients(tmp_path, layouts):
    keys = [f"{layout}/{case}" for layout in layouts for case in CASES]
    tried = part("layouts and cases", len(keys))
    gradients.torture(0, 4, keys, tried, tmp_path)
    assert tried.lost == []
    assert tried.figures["layouts and cases"] == len(keys)
    assert tried.figures["skipped"] + tried.figures["scores_not_counted"]


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_input(tmp_path, kind):
    inputs = part("inputs", 2000)
    fuzz.torture(kind, 0, 0, 2000, inputs, tmp_path)
    assert inputs.lost == []
    assert inputs.figures["inputs"] == 2000
    assert 0 < inputs.figures[f"{kind} refused"] < 2000


@pytest.mark.parametrize("where", ["plain", pytest.param("zero", marks=needs_compiler)])
def test_interrupted_steps(tmp_path, where):
    trials = part("trials", 200)
    interrupts.torture(where, 0, 0, 200, trials, tmp_path)
    assert trials.lost == []
    assert trials.figures["trials"] == 200


@pytest.mark.parametrize("name", ["adamw-switch", "adamw-wise"])
def test_many_steps(tmp_path, name):
    steps = part("steps", 1500)
    long.torture(0, 1500, [name], steps, tmp_path)
    assert steps.lost == []
    assert steps.figures["steps"] == 1500


def test_a_hang_is_told_and_ended(tmp_path):
    """Otherwise no part could ever find one."""
    assert run(time.sleep, (60,), 2, tmp_path, seconds=1).startswith("hung")
