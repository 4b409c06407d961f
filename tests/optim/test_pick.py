"""Which kernel does the step, and what happens where the fused one can't be had."""

import logging

import pytest
import torch

import gap_hf
from gap_hf.optim.kernels import fused_cpu
from gap_hf.optim.kernels.adam_cpu import AdamOnCPU
from gap_hf.optim.kernels.foreach import Foreach, Loop
from gap_hf.optim.kernels.pick import pick

from .test_kernels import ADAM, BETAS, F32, parameters
from .twins import needs_fused


@needs_fused
@pytest.mark.parametrize(
    ("foreach", "fused", "expected"),
    [
        (None, None, AdamOnCPU),
        (None, True, AdamOnCPU),
        (False, True, AdamOnCPU),
        (True, None, Foreach),
        (True, False, Foreach),
        (False, None, Loop),
        (False, False, Loop),
        (None, False, Loop),
    ],
)
def test_flags_as_torchs(foreach, fused, expected):
    assert pick(ADAM, foreach, fused, "cpu", F32) is expected


def test_other_devices_and_dtypes():
    assert pick(ADAM, None, None, "meta", F32) is Foreach
    assert pick(ADAM, None, None, "cpu", (torch.float64,) * 4) is Loop
    with pytest.raises(RuntimeError, match=r"fused=True can't be done: .*float64.* set foreach=True"):
        pick(ADAM, None, True, "cpu", (torch.float64,) * 4)
    with pytest.raises(RuntimeError, match="there is none for meta"):
        pick(ADAM, None, True, "meta", F32)


@pytest.mark.parametrize("cls", [gap_hf.Adam, gap_hf.GapAdamW, gap_hf.SGDM])
def test_both_flags_are_refused(cls):
    with pytest.raises(ValueError, match="foreach=True and fused=True exclude each other"):
        cls(parameters((3,)), foreach=True, fused=True)


def test_capturable_on_cpu_is_refused():
    ps = parameters((3,))
    optimizer = gap_hf.GapAdamW(ps, betas=BETAS, type="switch", capturable=True)
    ps[0].grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="capturable=True needs the fused kernel on an accelerator"):
        optimizer.step()


# ---------------------------------------------------------------- building
@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache, and nothing loaded before or after."""
    monkeypatch.setenv("GAP_HF_CACHE", str(tmp_path))
    caches = (fused_cpu.load, pick)
    for cache in caches:
        cache.cache_clear()
    yield tmp_path
    for cache in caches:
        cache.cache_clear()


@needs_fused
def test_built_once_and_said(fresh, caplog):
    with caplog.at_level(logging.WARNING, "gap_hf"):
        assert pick(ADAM, None, None, "cpu", F32) is AdamOnCPU
        assert [r.message for r in caplog.records if "building the fused CPU kernel" in r.message]
        (library,) = fresh.glob("*.so")
        caplog.clear()
        fused_cpu.load.cache_clear()
        assert not isinstance(fused_cpu.load(), fused_cpu.Unavailable)
        assert not caplog.records
        assert list(fresh.glob("*.so")) == [library]


@pytest.mark.parametrize(
    ("compiler", "reason"), [("no-such-compiler", "no C compiler was found"), ("false", "could not build")]
)
def test_without_a_compiler_the_loop_takes_over_and_says_so(fresh, monkeypatch, caplog, compiler, reason):
    monkeypatch.setenv("CC", compiler)
    ps = parameters((3, 4))
    optimizer = gap_hf.GapAdamW(ps, betas=BETAS, type="switch")
    ps[0].grad = torch.ones(3, 4)
    with caplog.at_level(logging.WARNING, "gap_hf"):
        optimizer.step()
        optimizer.step()
    said = [r.message for r in caplog.records if "no fused kernel" in r.message]
    assert len(said) == 1
    assert reason in said[0]
    with pytest.raises(RuntimeError, match="fused=True can't be done: " + ".*" + reason):
        pick(ADAM, None, True, "cpu", F32)
    assert not list(fresh.glob("*.so")), "nothing half-built is left"
