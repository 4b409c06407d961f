"""A fused kernel is compared with the loop before it is used. (The CUDA kernel is in test_fused_cuda.py.)"""

import logging
import os
import stat
from pathlib import Path

import pytest
import torch

import gap_hf
from gap_hf.doctor import machine as doctor
from gap_hf.doctor.finding import State
from gap_hf.optim import kernels
from gap_hf.optim.kernels import FusedCPU, FusedCUDA, build, fused_cpu, selfcheck

from .cuda import BF16, DTYPES, F32
from .twins import KERNELS, random_gradients

pytestmark = pytest.mark.skipif("fused" not in KERNELS, reason="no C compiler here")
CPU = torch.device("cpu")
ADAM, SGDM = (F32,) * 4, (F32,) * 3
ALL = [(value, value, first, second)[:n] for value, first, second in DTYPES.values() for n in (4, 3)]


def known(dtypes):
    return fused_cpu.why_not(dtypes) is None


# ---------------------------------------------------------------- a right kernel
@pytest.mark.parametrize("dtypes", dict.fromkeys(ALL), ids=str)
def test_the_kernel_agrees(dtypes):
    if not known(dtypes):
        pytest.skip("the C compiler has no _Float16")
    selfcheck.check(FusedCPU(), CPU, dtypes)


class Watched(FusedCPU):
    """Says what was chosen and reset."""

    def __init__(self):
        self.choices, self.resets = [], []

    def step(self, work, threshold, choices, negative_steps):
        resets, sums = super().step(work, threshold, choices, negative_steps)
        self.choices += choices.tolist()
        self.resets += resets.tolist()
        return resets, sums

    def step_for_all(self, work, threshold, J_ema, choice, negative_steps, J_bar):
        J, reset = super().step_for_all(work, threshold, J_ema, choice, negative_steps, J_bar)
        self.choices.append(int(choice))
        self.resets.append(bool(reset))
        return J, reset


@pytest.mark.parametrize("dtypes", [ADAM, SGDM], ids=["adam", "sgdm"])
@pytest.mark.parametrize("how", ["check_step", "check_step_for_all"])
def test_there_is_something_to_choose_and_to_reset(dtypes, how):
    plain, _ = selfcheck.rules(dtypes)
    kernel = Watched()
    getattr(selfcheck, how)(kernel, plain, dtypes)
    assert True in kernel.resets
    if how == "check_step" or dtypes == SGDM:
        assert len(set(kernel.choices)) > 1


def test_nothing_else_is_changed():
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.enable_grad():
        selfcheck.check(FusedCPU(), CPU, ADAM)
        assert torch.is_grad_enabled()
    with torch.inference_mode():
        selfcheck.check(FusedCPU(), CPU, ADAM)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads


# ---------------------------------------------------------------- wrong ones
@pytest.fixture
def wrong(monkeypatch, tmp_path):
    """Builds the kernel from a source with a mistake, into a cache of its own."""

    def built(right, mistaken):
        source = build.SOURCE.read_text()
        assert right in source
        (tmp_path / "wrong.c").write_text(source.replace(right, mistaken))
        monkeypatch.setattr(build, "SOURCE", tmp_path / "wrong.c")
        monkeypatch.setattr(build, "FLAGS", ("-O0", "-fopenmp", "-shared", "-fPIC", "-lm"))  # quicker to build
        monkeypatch.setenv("GAP_HF_CACHE", str(tmp_path / "cache"))
        forget()

    yield built
    forget()


def forget():
    fused_cpu.load.cache_clear()
    kernels.pick.cache_clear()


MISTAKES = [
    ("p[k] * keep - rate *", "p[k] * keep + rate *", "a new value"),
    ("0x846ca68bU", "0x846ca68cU", "rounded otherwise"),
    ("< largest - 1e-6", "< largest - 1e-1", "candidate is"),
    ("rest * g[k] * g[k]", "rest * g[k]", "a second moment"),
    ("x[i] + weight * (y[i] - x[i])", "x[i] - weight * (y[i] - x[i])", "a first moment"),
    ("correction[u]) + eps)", "correction[u]))", "a sum"),
    ("/ root + eps", "* root + eps", "a new value"),
    ("g[k] + momentum * m[k]", "g[k] + m[k]", "a new value"),
    ("if (job->l2 == 0) return g;", "return g;", "a first moment"),
    ("scratch[i] = -g[i]", "scratch[i] = g[i]", "a first moment"),
    ("rest = 1 - job->dampening", "rest = 1", "a first moment"),
    ("else if (t == 1)", "else if (t == 2)", "a first moment"),
    ("bits + 0x7FFF", "bits", "a first moment"),
    ("negative + 1 : 0", "negative + 2 : 0", "negative_steps is"),
    ("*negative >= job->threshold", "*negative > job->threshold", "negative_steps is"),
    ("all_finite(J, job->K) ? choose(", "1 ? choose(", "candidate is"),
    ("job->J_ema * J_bar[j] + (1 - job->J_ema) * J[j]", "J[j]", "the average of a score"),
    ("job->gain[j] * sums[j]", "sums[j]", "a score"),
    ("sums[job->K + job->second[j]]", "sums[job->K]", "a score"),
    ("job->soft_reset, of_first", "1, of_first", "a first moment"),
    ("job->second_reset, of_second", "1, of_second", "a second moment"),
    ("second_of(job, i, job->second[j])", "second_of(job, i, 0)", "a new value"),
    ("*steps[i] += 1", "*steps[i] += 2", "a count of steps"),
    ("? job->numel[*i] : *begin", "? job->numel[*i] - 1 : *begin", "a first moment"),
    ("omp_get_thread_num(), omp", "0, 1 + omp", "a first moment"),
]


def disagreements():
    for dtypes in (ADAM, SGDM, (BF16,) * 4, (F32, F32, BF16, F32)):
        try:
            selfcheck.check(FusedCPU(), CPU, dtypes)
        except selfcheck.Disagreement as error:
            yield str(error)


@pytest.mark.parametrize(("right", "mistaken", "what"), MISTAKES)
def test_mistakes_are_found(wrong, right, mistaken, what):
    wrong(right, mistaken)
    found = list(disagreements())
    assert any(what in text for text in found), found


def train(foreach):
    """Twelve steps: the parameters."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((30, 7), (5,))]
    optimizer = gap_hf.GapAdamW(params, lr=0.01, foreach=foreach)
    for _ in random_gradients(params, 12):
        optimizer.step()
    return params


def test_training_goes_on_with_the_loop(wrong, caplog, tmp_path):
    wrong("p[k] * keep - rate *", "p[k] * keep - 1.001f * rate *")
    with caplog.at_level(logging.WARNING, "gap_hf"):
        params = train(foreach=None)
    said = [r.getMessage() for r in caplog.records if "no fused kernel" in r.getMessage()]
    assert len(said) == 1
    assert "it disagrees with the loop on small random tensors: a new value is " in said[0]
    for p, q in zip(params, train(foreach=False), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(RuntimeError, match="fused=True can't be done: it disagrees with the loop .* a new value is"):
        kernels.pick(None, True, "cpu", ADAM)
    assert not list((tmp_path / "cache").glob("agrees-*"))


def test_the_doctor_says_so(wrong):
    (finding, *_) = doctor.kernels()
    assert finding.state is State.GOOD
    assert finding.text == f"{fused_cpu.load().whereabouts}; it agrees with the loop on small random tensors"
    wrong("p[k] * keep - rate *", "p[k] * keep - 1.003f * rate *")
    (finding, *_) = doctor.kernels()
    assert finding.state is State.MISSING
    assert "it disagrees with the loop on small random tensors: a new value is" in finding.text


def test_a_kernel_that_fails_is_not_used():
    class Failing(FusedCPU):
        def observe(self, work):
            raise ArithmeticError("no such instruction")

    reason = selfcheck.result(Failing, CPU, ADAM, "failing")
    assert reason == "its check on small random tensors failed: ArithmeticError: no such instruction"


# ---------------------------------------------------------------- once
def test_once_per_machine(wrong):
    """What a file says was passed is not checked again, if nobody else can have written it."""
    wrong("job->gain[j] * sums[j]", "job->gain[j] * 1.01 * sums[j]")
    cache = Path(os.environ["GAP_HF_CACHE"])
    assert "disagrees" in str(kernels.why_not_fused("cpu", ADAM))
    key = selfcheck.fingerprint("cpu", ADAM)
    selfcheck.note_passed(key)
    (passed,) = cache.glob("agrees-*")
    assert stat.S_IMODE(passed.stat().st_mode) == 0o400
    selfcheck.result.cache_clear()
    assert kernels.why_not_fused("cpu", ADAM) is None
    assert "disagrees" in str(kernels.why_not_fused("cpu", SGDM)), "said of other dtypes"
    for spoil in (lambda: passed.chmod(0o666), lambda: cache.chmod(0o777)):
        spoil()
        selfcheck.result.cache_clear()
        assert "disagrees" in str(kernels.why_not_fused("cpu", ADAM))
        passed.chmod(0o400)


def test_once_per_process(wrong, tmp_path):
    """And noted for others. Another library is checked again."""
    wrong("enum family {", "enum  family {")
    assert kernels.why_not_fused("cpu", ADAM) is None
    (passed,) = (tmp_path / "cache").glob("agrees-*")
    passed.unlink()
    assert kernels.why_not_fused("cpu", ADAM) is None
    assert not passed.exists()


def test_without_a_cache_directory(monkeypatch):
    fused_cpu.load()
    monkeypatch.setenv("GAP_HF_CACHE", "/dev/null")
    selfcheck.result.cache_clear()
    assert kernels.why_not_fused("cpu", ADAM) is None


def test_a_cuda_graph_is_not_the_place(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="only after an ordinary step"):
        selfcheck.why_not(FusedCUDA, "cuda", ADAM)
