"""Root-free AdamW and RMSProp: against their references, the published equations, and what they say of batch sizes."""

import copy

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import gap_hf
from gap_hf.optim.reference.rf_adamw import ReferenceRFAdamW
from gap_hf.optim.reference.rf_rmsprop import ReferenceRFRMSprop

from .twins import KERNELS

B = 16
PAIRS = {"rf_adamw": (gap_hf.RFAdamW, ReferenceRFAdamW), "rf_rmsprop": (gap_hf.RFRMSprop, ReferenceRFRMSprop)}
BETAS, MOMENTA = {"betas": [(0.0, 0.99), (0.9, 0.99), (0.99, 0.95)]}, {"momentum": [0.0, 0.9, 0.99], "alpha": 0.99}
RULES = {
    "switch": {"type": "switch", "J_ema": 0.5},
    "switch-each": {"type": "switch_parameter_wise", "lr_modulation": True, "maximize": True},
    "mix": {"type": "mix", "weights": (0.3, 0.6, 0.1)},
    "mix-score": {"type": "mix_parameter_wise", "weights": "score"},
}
CASES = {
    f"{name}-{rule}": (name, {**(BETAS if name == "rf_adamw" else MOMENTA), **options})
    for name in PAIRS
    for rule, options in RULES.items()
} | {
    "rf_adamw-default": ("rf_adamw", {"type": "default", "betas": (0.9, 0.99)}),
    "rf_rmsprop-default": ("rf_rmsprop", {"type": "default", "momentum": 0.9, "maximize": True}),
}
CHOOSING = {name: (PAIRS[name], {"batch_size": B, **CASES[f"{name}-switch"][1]}) for name in PAIRS}


def parameters(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(7, 5), (300,), (), (2, 3, 4), (0, 3)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def gradients(ps, steps, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    for t in range(steps):
        mean = 0.5 * float(torch.sign(torch.randn((), generator=generator))) if t % 10 else 0.0
        yield [(scale * (torch.randn(p.shape, generator=generator) + mean)).to(p.dtype) for p in ps]


def alone(options):
    """A single candidate for the references, which have no type='default'."""
    listed = "betas" if "betas" in options else "momentum"
    return {**options, listed: [options[listed]], "type": "first"} if options["type"] == "default" else options


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_is_the_reference(case, kernel, scale):
    name, options = CASES[case]
    options = {"lr": 1e-3, "eps": 1e-3, "weight_decay": 0.1, "batch_size": B, **options}
    ps, qs = parameters(), parameters()
    optimizer = PAIRS[name][0](ps, **options, **KERNELS[kernel])
    reference = PAIRS[name][1](qs, **alone(options))
    for grads in gradients(ps, 100, scale):
        for p, q, g in zip(ps, qs, grads, strict=True):
            q.data.copy_(p.data)
            p.grad, q.grad = g.clone(), g.clone()
        optimizer.step()
        reference.step()
        if options["type"] != "default":
            assert optimizer.param_groups[0]["last_choice"] == reference.param_groups[0]["last_choice"]
        for p, q in zip(ps, qs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_rf_adamw_is_the_published_step():
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


def test_rf_rmsprop_is_the_published_step():
    """The same paper's RMSProp."""
    (p,) = ps = [torch.nn.Parameter(torch.linspace(-1, 1, 9))]
    lr, momentum, a, eps, decay = 0.005, 0.9, 0.995, 1e-4, 0.1
    optimizer = gap_hf.RFRMSprop(ps, lr, momentum, a, eps, decay, batch_size=B)
    value, buf, S = p.detach().clone().double(), torch.zeros(9).double(), torch.full((9,), 1 / B).double()
    for (g,) in gradients(ps, 100):
        p.grad = g
        optimizer.step()
        g = g.double()
        S = a * S + (1 - a) * g**2
        buf = momentum * buf + g / (B * S + eps) + decay * value
        value -= lr * buf
        torch.testing.assert_close(p.double(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CHOOSING)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_batch_size_may_change_from_step_to_step(name, kernel):
    (cls, reference_cls), options = CHOOSING[name]
    ps, qs = parameters(), parameters()
    optimizer, reference = cls(ps, **options, **KERNELS[kernel]), reference_cls(qs, **options)
    for t, grads in enumerate(gradients(ps, 10)):
        for p, q, g in zip(ps, qs, grads, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        optimizer.param_groups[0]["batch_size"] = reference.param_groups[0]["batch_size"] = B - t
        optimizer.step()
        reference.step()
        assert optimizer.param_groups[0]["last_batch_size"] == B - t
    for p, q in zip(ps, qs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CHOOSING)
def test_the_mean_square_moves_in_bfloat16(name):
    ps = parameters(dtype=torch.bfloat16)
    optimizer = PAIRS[name][0](ps, batch_size=B)
    for grads in gradients(ps, 3, 1e-3):
        for p, g in zip(ps, grads, strict=True):
            p.grad = g
        optimizer.step()
    square = optimizer.state[ps[1]]["square_avg" if name == "rf_rmsprop" else "exp_avg_sq_0"]
    assert square.dtype == torch.float32
    torch.testing.assert_close(square, torch.full_like(square, 0.999**3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", CHOOSING)
def test_the_batch_size_is_never_guessed(name):
    cls = PAIRS[name][0]
    with pytest.raises(TypeError, match="batch_size"):
        cls(parameters())
    for wrong in (None, 0, -1, "16", float("nan"), float("inf"), True):
        with pytest.raises(ValueError, match="the number of items that each gradient is the mean of"):
            cls(parameters(), batch_size=wrong)


@pytest.mark.parametrize("name", CHOOSING)
def test_what_is_told_holds_for_one_step(name):
    ps = parameters()
    optimizer, other = PAIRS[name][0](ps, batch_size="told"), PAIRS[name][0](parameters(), batch_size=5.0)
    grads = next(gradients(ps, 1))
    for p, q, g in zip(ps, other.param_groups[0]["params"], grads, strict=True):
        p.grad, q.grad = g, g
    with pytest.raises(ValueError, match="nobody has called tell_batch_size before this step"):
        optimizer.step()
    for wrong in (0, "told", float("nan")):
        with pytest.raises(ValueError, match="must be a number above 0"):
            optimizer.tell_batch_size(wrong)
    optimizer.tell_batch_size(5)
    optimizer.step()
    other.step()
    for p, q in zip(ps, other.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match="nobody has called"):
        optimizer.step()


@pytest.mark.parametrize("source", ["told", "accelerate"])
def test_the_state_is_made_before_anybody_tells_the_batch_size(source):
    """torch's checkpoints have it made by a step with zero gradients and a learning rate of zero."""
    model = torch.nn.Linear(3, 2)
    optimizer = gap_hf.RFAdamW(model.parameters(), batch_size=source)
    state = get_optimizer_state_dict(model, optimizer)["state"]
    assert torch.equal(state["weight"]["exp_avg_sq_0"], torch.ones(2, 3))


@pytest.mark.parametrize("name", CHOOSING)
def test_a_resumed_run_has_its_own_batch_size_and_the_same_bits(name):
    cls, options = PAIRS[name][0], CASES[f"{name}-mix-score"][1]

    def run(optimizer, ps, first, last):
        for t, grads in enumerate(gradients(ps, last)):
            if t >= first:
                for p, g in zip(ps, grads, strict=True):
                    p.grad = g
                optimizer.step()

    ps, qs = parameters(), parameters()
    one, two = (cls(x, batch_size=size, **options) for x, size in ((ps, B), (qs, 2 * B)))
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
