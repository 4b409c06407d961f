"""Root-free AdamW: against its reference, its published equations, and what it says about batch sizes."""

import copy

import pytest
import torch

import gap_hf
from gap_hf.optim.reference.rf_adamw import ReferenceRFAdamW

from .twins import KERNELS

B = 16
CANDIDATES = {"betas": [(0.0, 0.99), (0.9, 0.99), (0.99, 0.95)]}
CASES = {
    "switch": {"type": "switch", **CANDIDATES, "J_ema": 0.5},
    "switch-each": {"type": "switch_parameter_wise", "betas": [(0.8, 0.99), (0.99, 0.99)], "lr_modulation": True},
    "mix": {"type": "mix", "betas": [(0.0, 0.99), (0.9, 0.99)], "weights": (0.3, 0.7)},
    "mix-score": {"type": "mix_parameter_wise", **CANDIDATES, "weights": "score"},
    "default": {"type": "default", "betas": (0.9, 0.99), "maximize": True},
}


def parameters(scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(7, 5), (300,), (), (2, 3, 4)]
    return [torch.nn.Parameter(scale * torch.randn(shape, generator=generator)) for shape in shapes]


def gradients(ps, steps, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    for t in range(steps):
        mean = 0.5 * float(torch.sign(torch.randn((), generator=generator))) if t % 10 else 0.0
        yield [scale * (torch.randn(p.shape, generator=generator) + mean) for p in ps]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_is_the_reference(case, kernel, scale):
    options = {"lr": 1e-3, "eps": 1e-3, "weight_decay": 0.1, "batch_size": B, **CASES[case]}
    ps, qs = parameters(), parameters()
    optimizer = gap_hf.RFAdamW(ps, **options, **KERNELS[kernel])
    alone = {**options, "betas": [options["betas"]], "type": "first"} if case == "default" else options
    reference = ReferenceRFAdamW(qs, **alone)
    for grads in gradients(ps, 100, scale):
        for p, q, g in zip(ps, qs, grads, strict=True):
            q.data.copy_(p.data)
            p.grad, q.grad = g.clone(), g.clone()
        optimizer.step()
        reference.step()
        if case != "default":
            assert optimizer.param_groups[0]["last_choice"] == reference.param_groups[0]["last_choice"]
        for p, q in zip(ps, qs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_is_the_published_step():
    """arXiv 2402.03496 without bias corrections, written out for one candidate."""
    (p,) = ps = [torch.nn.Parameter(torch.linspace(-1, 1, 9))]
    lr, beta1, a, eps, decay = 0.01, 0.9, 0.995, 1e-4, 0.1
    optimizer = gap_hf.RFAdamW(ps, lr, (beta1, a), eps, decay, batch_size=B)
    value, m, S = p.detach().clone().double(), torch.zeros(9).double(), torch.full((9,), 1 / B).double()
    for (g,) in gradients(ps, 100):
        p.grad = g
        optimizer.step()
        g = g.double()
        value *= 1 - lr * decay
        m = beta1 * m + (1 - beta1) * g
        S = a * S + (1 - a) * g**2
        value -= lr * m / (B * S + eps)
        torch.testing.assert_close(p.double(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_batch_size_may_change_from_step_to_step(kernel):
    ps, qs = parameters(), parameters()
    optimizer = gap_hf.RFAdamW(ps, batch_size=B, **CASES["switch"], **KERNELS[kernel])
    reference = ReferenceRFAdamW(qs, batch_size=B, **CASES["switch"])
    for t, grads in enumerate(gradients(ps, 10)):
        for p, q, g in zip(ps, qs, grads, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        optimizer.param_groups[0]["batch_size"] = reference.param_groups[0]["batch_size"] = B - t
        optimizer.step()
        reference.step()
    for p, q in zip(ps, qs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_the_batch_size_is_never_guessed():
    with pytest.raises(TypeError, match="batch_size"):
        gap_hf.RFAdamW(parameters())
    for wrong in (None, 0, -1, "16", float("nan")):
        with pytest.raises(ValueError, match="the number of samples in a batch, over all processes"):
            gap_hf.RFAdamW(parameters(), batch_size=wrong)


def test_a_resumed_run_has_its_own_batch_size_and_the_same_bits():
    def run(optimizer, ps, first, last):
        for t, grads in enumerate(gradients(ps, last)):
            if t >= first:
                for p, g in zip(ps, grads, strict=True):
                    p.grad = g
                optimizer.step()

    ps, qs = parameters(), parameters()
    one, two = (gap_hf.RFAdamW(x, batch_size=size, **CASES["mix-score"]) for x, size in ((ps, B), (qs, 2 * B)))
    run(one, ps, 0, 8)
    saved = copy.deepcopy(one.state_dict())
    for p, q in zip(ps, qs, strict=True):
        q.data.copy_(p.data)
    two.load_state_dict(saved)
    assert two.param_groups[0]["batch_size"] == 2 * B
    one.param_groups[0]["batch_size"] = 2 * B
    run(one, ps, 8, 16)
    run(two, qs, 8, 16)
    for p, q in zip(ps, qs, strict=True):
        assert torch.equal(p, q)
