"""What the doctor says of the machine that the tests run on."""

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

import torch

import gap_hf
from gap_hf.doctor.finding import State
from gap_hf.doctor.machine import kernels, layouts, supported, versions
from gap_hf.optim.kernels import fused_cpu

from ..tiny import run


def test_versions():
    found = {finding.what: finding for finding in versions()}
    assert found["torch"].text == importlib.metadata.version("torch")
    assert all(finding.state in (State.GOOD, State.MISSING) for finding in found.values())
    assert {"torch", "transformers", "accelerate", "deepspeed", "torchao"} <= set(supported())


def test_a_version_that_does_not_fit(monkeypatch):
    installed = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "4.50.0" if name == "transformers" else installed(name)
    )
    (finding,) = [finding for finding in versions() if finding.what == "transformers"]
    assert finding.state is State.BAD
    assert "needs transformers<6,>=4.57" in finding.text


def test_kernels_say_what_the_optimizer_would_do(monkeypatch):
    assert kernels()[0].state is (
        State.GOOD if fused_cpu.FusedCPU.why_not((torch.float32,) * 4) is None else State.MISSING
    )
    reason = fused_cpu.Unavailable("no C compiler was found")
    monkeypatch.setattr(fused_cpu, "load", lambda: reason)
    assert kernels()[0].state is State.MISSING
    assert "no C compiler was found. The loop" in kernels()[0].text


def test_layouts():
    found = {finding.what: finding.state for finding in layouts()}
    assert found["one process"] is State.GOOD
    assert found["DDP"] is State.GOOD
    if not torch.accelerator.is_available():
        assert found["FSDP1, FSDP2"] is State.MISSING


def test_what_is_missing_can_be_installed(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else find(name))
    (finding,) = [finding for finding in layouts() if finding.what == "DeepSpeed ZeRO"]
    assert finding.state is State.MISSING
    assert finding.text == f"pip install 'deepspeed{supported()['deepspeed'].specifier}'"


def test_no_message_names_what_a_wheel_lacks():
    """The recipes are in a checkout only, and the extras need an index that has gap_hf."""
    for path in Path(gap_hf.__file__).parent.rglob("*.py"):
        assert not re.search(r"recipes/|gap_hf\[|ddp_cpu", path.read_text(encoding="utf-8")), path


def test_command():
    done = run([Path(sys.executable).parent / "gap-hf", "doctor", "--config", "recipes/configs/zero2.yaml"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fused kernel, CPU" in done.stdout
    assert "ZeRO 2, 2 processes: exact" in done.stdout
