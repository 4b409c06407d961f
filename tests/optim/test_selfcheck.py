"""A fused kernel is compared with the loop before it is used. (The CUDA kernel is in test_fused_cuda.py.)"""

import logging
import os
import re
import shutil
import stat
from pathlib import Path

import pytest
import torch

import gap_hf
from gap_hf.doctor import machine as doctor
from gap_hf.doctor.finding import State
from gap_hf.optim.families.adai import AdaiFamily
from gap_hf.optim.families.adam import AdamFamily
from gap_hf.optim.families.adams import AdamsFamily
from gap_hf.optim.families.rf_adamw import RFAdamWFamily
from gap_hf.optim.families.rf_rmsprop import RFRMSpropFamily
from gap_hf.optim.families.sgdm import SGDMFamily
from gap_hf.optim.kernels import build, fused_cpu, selfcheck, vectors
from gap_hf.optim.kernels.adam_cuda import AdamOnCUDA
from gap_hf.optim.kernels.fused_cpu import FusedCPU
from gap_hf.optim.kernels.pick import pick, why_not_fused
from gap_hf.optim.rules.best import Best
from gap_hf.optim.rules.mix import Mix

from .cuda import BF16, DTYPES, F32
from .twins import needs_fused, random_gradients

pytestmark = needs_fused
CPU = torch.device("cpu")
ADAM, SGDM = (F32,) * 4, (F32,) * 3
FAMILIES = {4: AdamFamily(), 3: SGDMFamily()}
"""By the number of dtypes: of value, gradient, first and (for Adam) second moments."""
BYTE = torch.uint8
"""Codes of 8 bits."""
OTHERS = [family.fused["cpu"](family) for family in (AdaiFamily(), AdamsFamily(), RFAdamWFamily(), RFRMSpropFamily())]
HERE = [kind for kind, instructions in vectors.KINDS.items() if instructions.needs <= vectors.abilities()]
"""The vectors that this processor has."""
WIDE = [(first, second) for _, first, second in DTYPES.values() if first != BYTE]
"""The dtypes of moments that all families take: 8 bits are Adam's alone."""
ALL = [
    (value, value, first, second)[:n]
    for value, first, second in DTYPES.values()
    for n in ((4,) if first == BYTE else (4, 3))  # 8 bits are Adam's alone
]


def cases(some):
    """The tests' parameters; float16 needs a compiler that has _Float16, as gcc has since version 12."""
    for dtypes in dict.fromkeys(some):
        skip = pytest.mark.skipif(FusedCPU.why_not(dtypes) is not None, reason="the C compiler has no _Float16")
        yield pytest.param(dtypes, id=str(dtypes), marks=skip)


def kernel_for(dtypes, *mixins):
    family = FAMILIES[len(dtypes)]
    return type("Kernel", (*mixins, family.fused["cpu"]), {})(family)


# ---------------------------------------------------------------- a right kernel
@pytest.mark.parametrize("dtypes", cases(ALL))
def test_the_kernel_agrees(dtypes):
    selfcheck.check(kernel_for(dtypes), CPU, dtypes)


@pytest.mark.parametrize("value", [F32, BF16])
@pytest.mark.parametrize("kind", HERE)
def test_the_kernel_agrees_with_any_vectors(monkeypatch, kind, value):
    monkeypatch.setenv("GAP_HF_VECTORS", kind)
    forget()
    try:
        for dtypes in ((value,) * 4, (value, value, BF16, F32), (value, value, BYTE, F32)):
            selfcheck.check(kernel_for(dtypes), CPU, dtypes)
    finally:
        forget()


@pytest.mark.parametrize("dtypes", [(F32,) * 4, (F32, F32, BF16, F32), (F32, F32, BYTE, F32), (BF16,) * 4], ids=str)
def test_any_vectors_give_the_same_bits(monkeypatch, dtypes):
    """Only the order in which sums are taken is another."""
    ends = []
    for kind in HERE:
        monkeypatch.setenv("GAP_HF_VECTORS", kind)
        forget()
        kernel, work = kernel_for(dtypes), selfcheck.start(FAMILIES[4], 1, CPU, dtypes)
        for t in range(3):
            selfcheck.renewed(kernel, work, t)
            kernel.tick(work)
            kernel.observe(work, [])
            kernel.apply(work, [], [0, 1, 0, 1], [False, True, False, False])
        ends.append([*work.values, *(tensor for column in work.buffers for tensor in column)])
    forget()
    for other in ends[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ends[0], other, strict=True))


@pytest.mark.parametrize("kernel", OTHERS, ids=lambda kernel: kernel.family.name)
@pytest.mark.parametrize("dtypes", cases(dtypes for dtypes in ALL if dtypes[2:] in WIDE))
def test_the_kernels_of_other_families_agree(kernel, dtypes):
    if kernel.family.name in ("adai", "adams"):  # whose buffers are float32
        dtypes = (*dtypes[:2], F32)
    selfcheck.check(kernel, CPU, dtypes)


class Watched:
    """Says what was chosen and reset."""

    def __init__(self, family):
        super().__init__(family)
        self.choices, self.resets = [], []

    def step(self, rule, work, threshold, kept):
        resets, sums = super().step(rule, work, threshold, kept)
        self.choices += kept["last_choice"].tolist()
        self.resets += resets.tolist()
        return resets, sums

    def step_for_all(self, rule, work, threshold, J_ema, kept):
        J, reset = super().step_for_all(rule, work, threshold, J_ema, kept)
        self.choices.append(int(kept["last_choice"]))
        self.resets.append(bool(reset))
        return J, reset


@pytest.mark.parametrize("dtypes", [ADAM, SGDM], ids=["adam", "sgdm"])
@pytest.mark.parametrize("how", ["check_step", "check_step_for_all"])
@pytest.mark.parametrize("kind", [Best, Mix])
def test_there_is_something_to_choose_and_to_reset(dtypes, how, kind):
    kernel = kernel_for(dtypes, Watched)
    options = kernel.family.examples[0]
    rule = kind({**options, "weights": "score"}, kernel.family.decays(options))
    getattr(selfcheck, how)(kernel, rule, selfcheck.start(kernel.family, 0, CPU, dtypes), dtypes)
    assert True in kernel.resets
    if kind is Best and (how == "check_step" or dtypes == SGDM):
        assert len(set(kernel.choices)) > 1


def test_nothing_else_is_changed():
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.enable_grad():
        selfcheck.check(kernel_for(ADAM), CPU, ADAM)
        assert torch.is_grad_enabled()
    with torch.inference_mode():
        selfcheck.check(kernel_for(ADAM), CPU, ADAM)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads


# ---------------------------------------------------------------- wrong ones
@pytest.fixture
def wrong(monkeypatch, tmp_path):
    """Builds the kernel from a source with a mistake, into a cache of its own."""

    def built(right, mistaken):
        shutil.copytree(build.SOURCE.parent, tmp_path / "wrong")
        places = [path for path in (tmp_path / "wrong").iterdir() if right in path.read_text()]
        assert places
        for place in places:
            place.write_text(place.read_text().replace(right, mistaken))
        monkeypatch.setattr(build, "SOURCE", tmp_path / "wrong" / build.SOURCE.name)
        monkeypatch.setattr(build, "FLAGS", ("-O0", "-fopenmp", "-shared", "-fPIC", "-lm"))  # quicker to build
        monkeypatch.setenv("GAP_HF_VECTORS", "plain")
        monkeypatch.setenv("GAP_HF_CACHE", str(tmp_path / "cache"))
        forget()

    yield built
    forget()


def forget():
    fused_cpu.load.cache_clear()
    pick.cache_clear()


FIRST = r"an element of (exp_avg|momentum_buffer)_\d"
MISTAKES = [
    ("p * row->keep - known[0] *", "p * row->keep + known[0] *", "a new value"),
    ("p -= total /", "p += total /", "a new value"),
    ("0x846ca68bU", "0x846ca68cU", "rounded otherwise"),
    ("job->tie * fabs(largest)", "0.1 * fabs(largest)", "last_choice is"),
    ("weights[j] / total", "weights[j]", "a weight"),
    (": job->constant[j]", ": 0", "a weight"),
    ("applied += weights[j] * J[j]", "applied += J[j]", "negative_steps is"),
    ("known[j] = adam_rate(job, i, j, weights[j])", "known[j] = adam_rate(job, i, j, 1)", "a new value"),
    ("known[j] = job->rate[j] * weights[j]", "known[j] = job->rate[j]", "a new value"),
    ("if (n < LANES) r = where(first_lanes(n), r, broadcast(0));", "", "a sum"),
    ("g, hash) : g;", "g, hash) : 2 * g;", "a sum"),
    ("row->rest[u] * g * g", "row->rest[u] * g", "an element of exp_avg_sq_0"),
    ("? m + (1 - beta1) *", "? m - (1 - beta1) *", FIRST),
    ("* scale) + row->eps;", "* scale);", "a sum"),
    ("row->salt[j] = salt_of(step_of(job, i), from + j)", "row->salt[j] = 0", "rounded otherwise"),
    ("hash >> (32 - bits) : hash", "hash : hash", "rounded otherwise"),
    ("old * 0x9E3BU", "0", "rounded otherwise"),
    ("- zero + noise", "- zero", "rounded otherwise"),
    ("(1U << 23)) >> 1", "0) >> 1", f"rounded otherwise|{FIRST}"),
    ("floor | (code << 24 & 0x80000000U)", "floor", f"a new value|a sum|{FIRST}"),
    ("adam_lift(job, j), job->soft_reset", "adam_lift(job, j), 1", FIRST),
    ("g[k] + momentum * m[k]", "g[k] + m[k]", "a new value"),
    ("row->l2 == 0 ? g :", "1 ? g :", FIRST),
    ("if (job->l2 == 0) return g;", "return g;", FIRST),
    ("g = -g;", "g = g;", FIRST),
    ("scratch[i] = -g[i]", "scratch[i] = g[i]", FIRST),
    ("rest = 1 - own->dampening", "rest = 1", FIRST),
    ("if (t == 1)", "if (t == 2)", FIRST),
    ("bits + 0x7FFF", "bits", FIRST),
    ("negative + 1 : 0", "negative + 2 : 0", "negative_steps is"),
    ("*negative >= job->threshold", "*negative > job->threshold", "negative_steps is"),
    ("all_finite(J, job->K) ? choose(", "1 ? choose(", "last_choice is|a weight is"),
    ("job->J_ema * J_bar[j] + (1 - job->J_ema) * J[j]", "J[j]", "the average of a score"),
    ("job->gain[j] * sums[j]", "sums[j]", "a score"),
    ("sums[job->K + own->second[j]]", "sums[job->K]", "a score"),
    ("n, job->soft_reset)", "n, 1)", FIRST),
    ("n, own->second_reset)", "n, 1)", "an element of exp_avg_sq_0"),
    ("row->is.U == 1 ? own->second[from] : 0", "0", "a new value"),
    ("*steps[i] += 1", "*steps[i] += 2", "a count of steps"),
    ("? job->numel[*i] : *begin", "? job->numel[*i] - 1 : *begin", FIRST),
    ("omp_get_thread_num(), omp", "0, 1 + omp", FIRST),
    ("row->rootless ? own->batch_size : 1", "1", "an element of exp_avg_sq_0"),
    ("(row->rootless ? v :", "(0 ? v :", "a sum"),
    ("is_rootless(job) ? rate :", "0 ? rate :", "a new value"),
    ("(1 - own->alpha) * own->batch_size", "(1 - own->alpha)", FIRST),
    ("eps) + decay * p[k]", "eps)", FIRST),
    ("uphill[k] = d[k] *", "uphill[k] =", "a sum"),
    ("p[k] - known[j] * m[k]", "p[k] - known[0] * m[k]", "a new value"),
    ("sqrt(sums[job->K] / numel)", "1", "a score"),
    ("rest = beta0 * ratio[k]", "rest = ratio[k]", FIRST),
    ("v[k] = v[k] * beta2 + rest", "v[k] = v[k] * beta2 - rest", "a sum"),
    ("P[k] *= 1 - weight[k]", "P[k] *= weight[k]", "beta1_prod_0"),
    ("rest[k] / (2 - rest[k])", "rest[k] / 2", "a sum"),
    ("rest < least ? least : rest", "rest", FIRST),
    ("powf(weight[k], d)", "weight[k]", FIRST),
    ("j++, keep = 1)", "j++)", "a new value"),
    ("fmax(correction * own->mean, FLT_MIN)", "correction", FIRST),
]


def disagreements():
    kernels = [
        (kernel_for(dtypes), dtypes)
        for dtypes in (ADAM, SGDM, (BF16,) * 4, (F32, F32, BF16, F32), (F32, F32, BYTE, F32))
    ]
    for kernel, dtypes in [*kernels, *((kernel, ADAM) for kernel in OTHERS)]:
        try:
            selfcheck.check(kernel, CPU, dtypes)
        except selfcheck.Disagreement as error:
            yield str(error)


@pytest.mark.parametrize(("right", "mistaken", "what"), MISTAKES)
def test_mistakes_are_found(wrong, right, mistaken, what):
    wrong(right, mistaken)
    found = list(disagreements())
    assert any(re.search(what, text) for text in found), found


def train(foreach):
    """Twelve steps: the parameters."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((30, 7), (5,))]
    optimizer = gap_hf.GapAdamW(params, lr=0.01, foreach=foreach)
    for _ in random_gradients(params, 12):
        optimizer.step()
    return params


def test_training_goes_on_with_the_loop(wrong, caplog, tmp_path):
    wrong("p * row->keep - known[0] *", "p * row->keep - 1.001f * known[0] *")
    with caplog.at_level(logging.WARNING, "gap_hf"):
        params = train(foreach=None)
    said = [r.getMessage() for r in caplog.records if "no fused kernel" in r.getMessage()]
    assert len(said) == 1
    assert "it disagrees with the loop on small random tensors: a new value is " in said[0]
    for p, q in zip(params, train(foreach=False), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(RuntimeError, match="fused=True can't be done: it disagrees with the loop .* a new value is"):
        pick(FAMILIES[4], None, True, "cpu", ADAM)
    assert not list((tmp_path / "cache").glob("agrees-*"))


def test_the_doctor_says_so(wrong):
    (finding, *_) = doctor.kernels()
    assert finding.state is State.GOOD
    assert (
        finding.text
        == f"{vectors.chosen().name}; {fused_cpu.load().whereabouts}; it agrees with the loop on small random tensors"
    )
    wrong("p * row->keep - known[0] *", "p * row->keep - 1.003f * known[0] *")
    (finding, *_) = doctor.kernels()
    assert finding.state is State.MISSING
    assert "it disagrees with the loop on small random tensors: a new value is" in finding.text


def test_a_kernel_that_fails_is_not_used():
    class Failing(FAMILIES[4].fused["cpu"]):
        def observe(self, work, answers):
            raise ArithmeticError("no such instruction")

    reason = selfcheck.result(FAMILIES[4], Failing, CPU, ADAM, "failing")
    assert reason == "its check on small random tensors failed: ArithmeticError: no such instruction"


# ---------------------------------------------------------------- once
def test_once_per_machine(wrong):
    """What a file says was passed is not checked again, if nobody else can have written it."""
    wrong("job->gain[j] * sums[j]", "job->gain[j] * 1.01 * sums[j]")
    cache = Path(os.environ["GAP_HF_CACHE"])
    assert "disagrees" in str(why_not_fused(FAMILIES[4], "cpu", ADAM))
    key = selfcheck.fingerprint(FAMILIES[4], "cpu", ADAM)
    selfcheck.note_passed(key)
    (passed,) = cache.glob("agrees-*")
    assert stat.S_IMODE(passed.stat().st_mode) == 0o400
    selfcheck.result.cache_clear()
    assert why_not_fused(FAMILIES[4], "cpu", ADAM) is None
    assert "disagrees" in str(why_not_fused(FAMILIES[3], "cpu", SGDM)), "said of other dtypes"
    for spoil in (lambda: passed.chmod(0o666), lambda: cache.chmod(0o777)):
        spoil()
        selfcheck.result.cache_clear()
        assert "disagrees" in str(why_not_fused(FAMILIES[4], "cpu", ADAM))
        passed.chmod(0o400)


def test_once_per_process(wrong, tmp_path):
    """And noted for others. Another library is checked again."""
    wrong("enum dtype {", "enum  dtype {")
    assert why_not_fused(FAMILIES[4], "cpu", ADAM) is None
    (passed,) = (tmp_path / "cache").glob("agrees-*")
    passed.unlink()
    assert why_not_fused(FAMILIES[4], "cpu", ADAM) is None
    assert not passed.exists()


def test_without_a_cache_directory(monkeypatch):
    fused_cpu.load()
    monkeypatch.setenv("GAP_HF_CACHE", "/dev/null")
    selfcheck.result.cache_clear()
    assert why_not_fused(FAMILIES[4], "cpu", ADAM) is None


def test_a_cuda_graph_is_not_the_place(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="only after an ordinary step"):
        selfcheck.why_not(FAMILIES[4], AdamOnCUDA, "cuda", ADAM)
