"""Tensors of every layout, dtype and device find their kernel, and are noticed when they move."""

import copy

import pytest
import torch

import gap_hf
from gap_hf.optim.kernels import deal

from .test_kernels import BETAS, parameters, run
from .twins import needs_fused, random_gradients


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


def test_the_dealer_looks_once(monkeypatch):
    """Dtypes and devices of buffers are looked at in the first step only."""
    looks = []
    monkeypatch.setattr(deal, "deal", lambda *args, real=deal.deal: looks.append(1) or real(*args))
    ps = parameters((5, 3), (2,))
    run(ps, 5, betas=BETAS, type="switch")
    assert len(looks) == 1
