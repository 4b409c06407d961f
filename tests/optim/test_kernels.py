"""Which kernel does what, and that all of them do the same."""

import copy
import logging

import pytest
import torch

import gap_hf
from gap_hf.optim import kernels
from gap_hf.optim.kernels import Foreach, FusedCPU, Loop, deal, fused_cpu

from .twins import KERNELS, random_gradients

needs_fused = pytest.mark.skipif("fused" not in KERNELS, reason="no C compiler here")
BETAS = [(0.8, 0.999), (0.99, 0.999)]
F32 = (torch.float32,) * 4


def parameters(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


# ---------------------------------------------------------------- which one
@needs_fused
@pytest.mark.parametrize(
    ("foreach", "fused", "expected"),
    [
        (None, None, FusedCPU),
        (None, True, FusedCPU),
        (False, True, FusedCPU),
        (True, None, Foreach),
        (True, False, Foreach),
        (False, None, Loop),
        (False, False, Loop),
        (None, False, Loop),
    ],
)
def test_flags_as_torchs(foreach, fused, expected):
    assert type(kernels.pick(foreach, fused, "cpu", F32)) is expected


def test_other_devices_and_dtypes():
    assert type(kernels.pick(None, None, "meta", F32)) is Foreach
    assert type(kernels.pick(None, None, "cpu", (torch.float64,) * 4)) is Loop
    with pytest.raises(RuntimeError, match=r"fused=True can't be done: .*float64.* set foreach=True"):
        kernels.pick(None, True, "cpu", (torch.float64,) * 4)
    with pytest.raises(RuntimeError, match="there is none for meta"):
        kernels.pick(None, True, "meta", F32)


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
    caches = (fused_cpu.load, kernels.pick)
    for cache in caches:
        cache.cache_clear()
    yield tmp_path
    for cache in caches:
        cache.cache_clear()


@needs_fused
def test_built_once_and_said(fresh, caplog):
    with caplog.at_level(logging.WARNING, "gap_hf"):
        assert type(kernels.pick(None, None, "cpu", F32)) is FusedCPU
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
        kernels.pick(None, True, "cpu", F32)
    assert not list(fresh.glob("*.so")), "nothing half-built is left"


# ---------------------------------------------------------------- all the same
def run(ps, steps=20, **options):
    """Choices at every step; ``ps`` are trained."""
    cls = options.pop("cls", gap_hf.GapAdamW)
    optimizer = cls(ps, **options)
    history = []
    for _ in random_gradients(ps, steps):
        optimizer.step()
        history.append(copy.deepcopy([group["last_choice"] for group in optimizer.param_groups]))
    return history, optimizer


@needs_fused
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(type_, threads):
    results = []
    before = torch.get_num_threads()
    try:
        for n in (threads, 2):
            torch.set_num_threads(n)
            ps = parameters((300, 50), (5,), (4097,), (0,), (64, 64))
            history, optimizer = run(ps, betas=BETAS, type=type_, fused=True)
            results.append((history, ps, [b for s in optimizer.state.values() for b in s.values()]))
    finally:
        torch.set_num_threads(before)
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1] + results[0][2], results[1][1] + results[1][2], strict=True):
        assert torch.equal(a, b)


@needs_fused
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (gap_hf.GapAdamW, {"betas": BETAS, "J_ema": 0.7}),
        (gap_hf.Adam, {"betas": [(0.9, 0.99), (0.95, 0.999), (0.99, 0.99)], "weight_decay": 0.1}),
        (gap_hf.SGDM, {"momentum": [0.9, 0.95, 0.99], "nesterov": True}),
    ],
)
def test_one_call_for_all_is_the_same_as_several(cls, options):
    """A single group is observed, chosen and applied in one call; two groups are not. Missing, infinite and reset."""
    shapes = [(70, 80), (5,), (), (0,), (64, 100)]
    together, apart = parameters(*shapes), parameters(*shapes)
    options = {"type": "switch", "hysteresis_threshold": 1, **options}
    one, two = cls(together, **options), cls([{"params": apart[:3]}, {"params": apart[3:]}], **options)
    resets = 0
    for t, _ in enumerate(random_gradients(together, 120)):
        if t % 9 == 4:
            together[t % 2].grad = None
        if t == 60:
            together[0].grad[0, 0] = torch.inf
        if t == 62:  # as a run that was cleaned up
            for optimizer, ps in ((one, together), (two, apart)):
                for p in ps:
                    p.data.nan_to_num_(0.0, 0.0, 0.0)
                    for buffer in optimizer.state[p].values():
                        buffer.nan_to_num_(0.0, 0.0, 0.0)
        for p, q in zip(together, apart, strict=True):
            q.grad = None if p.grad is None else p.grad.clone()
        one.step()
        two.step()
        for key in ("last_choice", "negative_steps"):
            assert one.param_groups[0][key] == two.param_groups[0][key] == two.param_groups[1][key], (t, key)
        assert one.param_groups[0]["J_bar"] == pytest.approx(two.param_groups[0]["J_bar"], rel=1e-12)
        assert one.last_scores.tolist() == pytest.approx(two.last_scores.tolist(), rel=1e-12, nan_ok=True)
        assert bool(one.last_resets) == bool(two.last_resets)
        resets += bool(one.last_resets)
        for p, q in zip(together, apart, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=0, equal_nan=True)
    assert resets


@needs_fused
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kernel", "state_dtype"),  # without one, the others round after every operation, as torch's
    [("fused", None), *[(kernel, state_dtype) for kernel in KERNELS for state_dtype in ("float32", "bfloat16")]],
)
@pytest.mark.parametrize("family", ["adam", "sgdm"])
def test_low_precision_is_float32_rounded_when_stored(dtype, state_dtype, family, kernel):
    """One step from the same bits gives what float32 gives, rounded once."""
    options = {"cls": gap_hf.SGDM, "momentum": [0.5, 0.9]} if family == "sgdm" else {"betas": BETAS}
    low = parameters((70, 9), (5000,), dtype=dtype)
    wide = [p.detach().float().requires_grad_() for p in low]
    low_optimizer = run(low, 1, **options, type="switch", state_dtype=state_dtype, lr=0.1, **KERNELS[kernel])[1]
    for p, q in zip(low, wide, strict=True):
        q.grad = p.grad.float()
    cls = options.pop("cls", gap_hf.GapAdamW)
    optimizer = cls(wide, **options, type="switch", lr=0.1, **KERNELS[kernel])
    optimizer.step()
    for p, q in zip(low, wide, strict=True):
        for name, buffer in optimizer.state[q].items():
            if name == "step":
                continue
            stored = low_optimizer.state[p][name]
            if state_dtype == "bfloat16" and not name.startswith("exp_avg_sq"):
                assert stored.dtype == torch.bfloat16
                assert ((stored.float() - buffer).abs() <= buffer.abs() / 128).all()  # up or down, stochastically
            else:
                assert torch.equal(stored, buffer.to(stored.dtype)), name
        if dtype == torch.float16 and state_dtype is None and family == "adam":
            continue  # small v underflow to 0 in float16, in torch's loop as here, and blow the step up
        tolerance = {torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype]
        torch.testing.assert_close(p.float(), q, rtol=tolerance, atol=2e-2 if state_dtype != "float32" else 1e-3)


@needs_fused
def test_memory_layouts():
    """Strided, transposed, offset and channels-last parameters, and gradients laid out otherwise, in one group."""
    base = torch.randn(8, 20)
    shapes = [base[:, ::2], torch.randn(6, 5).t(), torch.randn(40)[3:], torch.randn(2, 3, 4, 5)]
    shapes[3] = shapes[3].contiguous(memory_format=torch.channels_last)
    plain = [t.clone(memory_format=torch.contiguous_format).requires_grad_() for t in shapes]
    odd = [t.detach().requires_grad_() for t in shapes]
    assert sum(p.is_contiguous() for p in odd) == 1
    optimizers = [
        gap_hf.GapAdamW(ps, betas=BETAS, type="switch_parameter_wise", fused=flag)
        for ps, flag in ((plain, None), (odd, True))
    ]
    for t, _ in enumerate(random_gradients(plain, 20)):
        for p, q in zip(plain, odd, strict=True):
            q.grad = p.grad.clone() if t % 2 else torch.empty_like(q).copy_(p.grad)
        for optimizer in optimizers:
            optimizer.step()
        assert optimizers[0].param_groups[0]["last_choice"] == optimizers[1].param_groups[0]["last_choice"]
    for p, q in zip(plain, odd, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@needs_fused
def test_mixed_dtypes_in_one_group():
    def mixed():
        return parameters((30, 4)) + parameters((30, 4), dtype=torch.bfloat16) + parameters((7,), dtype=torch.float64)

    fused, loop = mixed(), mixed()
    assert run(fused, betas=BETAS, type="switch")[0] == run(loop, betas=BETAS, type="switch", foreach=False)[0]
    torch.testing.assert_close(fused[0], loop[0], rtol=1e-5, atol=1e-6)


@needs_fused
@pytest.mark.parametrize("change", ["data", "state", "state_data", "load", "flags"])
def test_tensors_that_move_are_noticed(change):
    """What the dealer remembers about memory is dropped when the memory is another."""
    moved, still = parameters((40, 30), (9,)), parameters((40, 30), (9,))
    a, b = (gap_hf.GapAdamW(ps, betas=BETAS, type="switch") for ps in (moved, still))
    for t, _ in enumerate(random_gradients(moved, 12)):
        for p, q in zip(moved, still, strict=True):
            q.grad = p.grad.clone()
        if t == 6:
            for p in moved:
                state = a.state[p]
                if change == "data":
                    p.data = p.data.clone()
                elif change == "state":
                    a.state[p] = {name: value.clone() for name, value in state.items()}
                elif change == "state_data":
                    for value in state.values():
                        value.data = value.data.clone()
            if change == "load":
                a.load_state_dict(copy.deepcopy(a.state_dict()))
            if change == "flags":
                a.param_groups[0]["foreach"] = False
        a.step()
        b.step()
    for p, q in zip(moved, still, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5 * (change == "flags"), atol=1e-6 * (change == "flags"))


@needs_fused
def test_state_on_another_device_is_an_error_not_a_crash():
    ps = parameters((4,))
    optimizer = gap_hf.GapAdamW(ps, betas=BETAS, type="switch")
    ps[0].grad = torch.ones(4)
    optimizer.step()
    optimizer.state[ps[0]]["exp_avg_0"] = torch.zeros(4, device="meta")
    with pytest.raises(RuntimeError, match=r"a parameter is on cpu, its gradient or optimizer state on .*meta"):
        optimizer.step()


@needs_fused
def test_a_parameter_that_shrank_in_place_is_an_error_not_a_crash():
    ps = parameters((40,), (7,))
    optimizer = gap_hf.GapAdamW(ps, betas=BETAS, type="switch")
    for _ in random_gradients(ps, 2):
        optimizer.step()
    optimizer.zero_grad()
    ps[0].data = ps[0].data[:30]  # at the same address
    for p in ps:
        p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="a parameter has 30 elements, its gradient or optimizer state 40"):
        optimizer.step()


# ---------------------------------------------------------------- counted
class Calls:
    """The library, counting calls."""

    def __init__(self, library):
        self.library, self.names = library, []

    def __getattr__(self, name):
        self.names.append(name)
        return getattr(self.library, name)


@needs_fused
@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("switch", ["gap_tick", "gap_step_for_all"]),
        ("switch_parameter_wise", ["gap_tick", "gap_step"]),
    ],
)
def test_calls_are_constant_in_the_number_of_tensors(monkeypatch, type_, expected):
    kernels.pick(None, None, "cpu", F32)  # its check before its first use calls it, too
    calls = Calls(fused_cpu.load())
    monkeypatch.setattr(fused_cpu, "load", lambda: calls)
    for n in (1, 50):
        ps = parameters(*[(5, 3)] * n)
        optimizer = gap_hf.GapAdamW(ps, betas=BETAS, type=type_)
        for _ in random_gradients(ps, 3):
            calls.names.clear()
            optimizer.step()
            assert [name for name in calls.names if name != "gap_has_float16"] == expected


def test_the_dealer_looks_once(monkeypatch):
    """Dtypes and devices of buffers are looked at in the first step only."""
    looks = []
    monkeypatch.setattr(deal, "deal", lambda *args, real=deal.deal: looks.append(1) or real(*args))
    ps = parameters((5, 3), (2,))
    run(ps, 5, betas=BETAS, type="switch")
    assert len(looks) == 1


# ---------------------------------------------------------------- torch.compile
def test_torch_compile_runs_the_step_as_it_is():
    """Directly, and inside a function with other things in it; groups and results are those of the plain step."""
    results = []
    for wrap in (lambda step: step, torch.compile, lambda step: torch.compile(lambda: step())):
        ps = parameters((6, 5), (4,))
        optimizer = gap_hf.GapAdamW(ps, betas=BETAS, type="switch")
        step = wrap(optimizer.step)
        for _ in random_gradients(ps, 5):
            step()
        results.append((ps, dict(optimizer.param_groups[0])))
    plain, *compiled = results
    for ps, group in compiled:
        assert all(torch.equal(p, q) for p, q in zip(plain[0], ps, strict=True))
        assert {**group, "params": None} == {**plain[1], "params": None}
