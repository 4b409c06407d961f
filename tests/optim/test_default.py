"""``type='default'`` is torch.optim, bit for bit."""

import pytest
import torch

import gap_hf

from .twins import KERNELS, random_gradients

ADAM = [{}, {"weight_decay": 0.1}, {"betas": (0.5, 0.9), "eps": 1e-3}, {"lr": 0.1}, {"betas": [(0.8, 0.99)]}]
SGD = [
    {},
    {"momentum": 0.9},
    {"momentum": [0.9], "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.8, "dampening": 0.4},
]
CASES = [(gap_hf.Adam, torch.optim.Adam, {}, o) for o in ADAM]
CASES += [(gap_hf.Adam, torch.optim.AdamW, {"decoupled_weight_decay": True}, {"weight_decay": 0.0, **o}) for o in ADAM]
CASES += [(gap_hf.GapAdamW, torch.optim.AdamW, {"type": "default"}, o) for o in ADAM]
CASES += [(gap_hf.SGDM, torch.optim.SGD, {}, o) for o in SGD]


def single(options: dict) -> dict:
    """torch takes one candidate without a list."""
    return {k: v[0] if isinstance(v, list) else v for k, v in options.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("ours", "torchs", "extra", "options"), CASES)
def test_bitwise_over_100_steps(ours, torchs, extra, options, dtype):
    torch.manual_seed(0)
    params = [torch.randn(shape).to(dtype).requires_grad_() for shape in [(17, 5), (), (3,)]]
    copies = [p.detach().clone().requires_grad_() for p in params]
    gap, reference = ours(params, **extra, **options), torchs(copies, **single(options))
    for _ in random_gradients(params, 100):
        for p, q in zip(params, copies, strict=True):
            q.grad = p.grad.clone()
        gap.step()
        reference.step()
        assert all(torch.equal(p, q) for p, q in zip(params, copies, strict=True))
    assert gap.param_groups[0]["last_choice"] == 0


@pytest.mark.parametrize(
    ("ours", "torchs", "options"),
    [
        (gap_hf.Adam, torch.optim.Adam, {"betas": [(0.9, 0.999)], "weight_decay": 0.1}),
        (gap_hf.GapAdamW, torch.optim.AdamW, {"betas": [(0.8, 0.99)]}),
        (gap_hf.SGDM, torch.optim.SGD, {"momentum": [0.9], "weight_decay": 0.1, "nesterov": True}),
    ],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_one_candidate_to_switch_among_is_torch_too(ours, torchs, options, kernel):
    """The applied update is torch's own, whatever chose it; that of its fused kernel where ours is fused."""
    torch.manual_seed(0)
    params = [torch.randn(shape).requires_grad_() for shape in [(17, 5), (), (3,)]]
    copies = [p.detach().clone().requires_grad_() for p in params]
    # a soft reset is no part of torch.optim: a factor of 1 turns it off
    gap = ours(params, type="switch", soft_reset=1.0, **options, **KERNELS[kernel])
    reference = torchs(copies, **single(options), fused=kernel == "fused")
    for _ in random_gradients(params, 100):
        for p, q in zip(params, copies, strict=True):
            q.grad = p.grad.clone()
        gap.step()
        reference.step()
        for p, q in zip(params, copies, strict=True):
            torch.testing.assert_close(
                p, q, rtol=1e-5 if kernel == "fused" else 0, atol=1e-6 if kernel == "fused" else 0
            )


@pytest.mark.parametrize(
    ("ours", "torchs", "extra"),
    [
        (gap_hf.Adam, torch.optim.Adam, {}),
        (gap_hf.GapAdamW, torch.optim.AdamW, {"type": "default"}),
        (gap_hf.SGDM, torch.optim.SGD, {}),
    ],
)
def test_defaults_are_torchs(ours, torchs, extra):
    p = [torch.zeros(1, requires_grad=True)]
    mine, theirs = ours(p, **extra).defaults, torchs(p).defaults
    shared = set(mine) & set(theirs)
    assert {"lr", "weight_decay", "maximize", "foreach"} <= shared
    assert {k: mine[k] for k in shared} == {k: theirs[k] for k in shared}
