"""The kernels all do the same, bit for bit where they can."""

import copy

import pytest
import torch

import gap_hf
from gap_hf.optim.families.adam import AdamFamily

from .twins import KERNELS, needs_fused, random_gradients

BETAS = [(0.8, 0.999), (0.99, 0.999)]
F32 = (torch.float32,) * 4
ADAM = AdamFamily()


def parameters(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


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
