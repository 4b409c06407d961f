"""Inverse-free Shampoo: against its reference and the published package, and what its factors are kept in.

(Layouts and checkpoints: tests/sharding. The factors by themselves: tests/optim/test_kronecker.py.)
"""

import copy
import math

import pytest
import torch

import gap_hf
from gap_hf.optim.reference.if_shampoo import ReferenceIFShampoo

from .shampoo import CASES, KERNELS, B, gradients, parameters, run, state_of


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_is_the_reference(case, kernel, scale):
    options = {"lr": 1e-2 / scale, "batch_size": B, **CASES[case]}
    options["weight_decay"] = scale * options.get("weight_decay", 0.0)
    ps, qs = parameters(), parameters()
    optimizer = gap_hf.IFShampoo(ps, **options, **KERNELS[kernel])
    alone = {"momentum": [options["momentum"]], "type": "first", "hysteresis_threshold": 100}
    alone = alone if options["type"] == "default" else {}
    reference = ReferenceIFShampoo(qs, **{**options, **alone})
    seen = set()
    for t, grads in enumerate(gradients(ps, 60, scale)):
        for i, (p, q, g) in enumerate(zip(ps, qs, grads, strict=True)):
            q.data.copy_(p.data)
            p.grad, q.grad = (None, None) if i == 1 and t % 4 == 3 else (g.clone(), g.clone())
        optimizer.step()
        reference.step()
        mine, theirs = optimizer.param_groups[0], reference.param_groups[0]
        if options["type"] != "default":
            assert mine["last_choice"] == theirs["last_choice"], t
            seen |= set(mine["last_choice"] if isinstance(mine["last_choice"], list) else [mine["last_choice"]])
        if options["type"].startswith("mix"):
            weights = [torch.tensor(group["last_weights"]) for group in (mine, theirs)]
            torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
        for p, q in zip(ps, qs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
    assert len(seen) > 1 or options["type"] == "default" or case == "mix"


PUBLISHED = {
    "defaults": {},
    "all": {"beta2": 0.05, "alpha2": 0.9, "lam": 0.1, "kappa": 0.01, "T": 3, "alpha1": 0.5},
    "no-momentum": {"alpha1": 0.0, "alpha2": 0.0, "lam": 0.0},
}
OURS = {"lam": "damping", "kappa": "weight_decay", "T": "update_interval", "alpha1": "momentum"}


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("structure", ["dense", "diagonal"])
@pytest.mark.parametrize("case", PUBLISHED)
def test_is_the_published_package(case, structure, scale, monkeypatch):
    """sirfshampoo 0.0.1, step by step: parameters, momentum and factors."""
    sirfshampoo = pytest.importorskip("sirfshampoo", reason="the extra 'published' is not installed")
    diagonal = pytest.importorskip("singd.structures.diagonal").DiagonalMatrix
    options = {"lr": 0.1 / scale, **PUBLISHED[case]}
    options["kappa"] = scale * options.get("kappa", 0.0)
    shapes = [(7, 5), (30,), (), (2, 3, 4), (6, 1, 3)]
    ps, qs = parameters(shapes=shapes), parameters(shapes=shapes)
    if structure == "diagonal":  # which it has, but does not list among those it supports
        monkeypatch.setitem(sirfshampoo.SIRFShampoo.SUPPORTED_STRUCTURES, "diagonal", diagonal)
    theirs = sirfshampoo.SIRFShampoo(torch.nn.ParameterList(qs), batch_size=B, structures=structure, **options)
    named = {OURS.get(name, name): value for name, value in options.items()}
    ours = gap_hf.IFShampoo(ps, batch_size=B, max_axis=1 if structure == "diagonal" else 4096, **named)
    start = [p.detach().clone() for p in ps]
    for grads in gradients(ps, 120, scale):
        for p, q, g in zip(ps, qs, grads, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        ours.step()
        theirs.step()
        for i, (p, q) in enumerate(zip(ps, qs, strict=True)):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)
            both = {"factors": theirs.preconditioner[i], "factor_momenta": theirs.preconditioner_momenta[i]}
            for mine, own in both.items():
                dense = [K.to_dense() for K in own]
                if structure == "diagonal" and p.ndim:  # the axis of a scalar is not longer than 1
                    dense = [K.diag() for K in dense]
                flat = torch.cat([K.flatten() for K in dense])
                torch.testing.assert_close(ours.state[p][mine], flat, rtol=1e-4, atol=1e-4)
    assert all(bool(((p - s).abs() > 0.1).any()) for p, s in zip(ps, start, strict=True)), "they have moved"


def test_with_factors_that_stay_it_is_sgd():
    """beta2=0: the same steps and, the trace of the identity being its size, the same scores and choices."""
    ps, qs = parameters(), parameters()
    options = {"lr": 0.01, "momentum": [0.5, 0.9], "type": "switch"}
    shampoo, sgdm = gap_hf.IFShampoo(ps, beta2=0.0, batch_size=B, **options), gap_hf.SGDM(qs, **options)
    for grads in gradients(ps, 30):
        for p, q, g in zip(ps, qs, grads, strict=True):
            p.grad, q.grad = g.clone(), g.clone()
        shampoo.step()
        sgdm.step()
        torch.testing.assert_close(shampoo.last_scores, sgdm.last_scores, rtol=1e-5, atol=1e-5)
        assert shampoo.param_groups[0]["last_choice"] == sgdm.param_groups[0]["last_choice"]
    for p, q in zip(ps, qs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


def test_the_score_is_the_alignment_in_the_metric():
    """With P as a matrix: sum of (P^-1 D) P^-1-scaled b over the norm sqrt(mean of P's diagonal / (1 - mu^2))."""
    (p,) = ps = parameters(shapes=[(4, 3)])
    optimizer = gap_hf.IFShampoo(ps, momentum=[0.5, 0.9], beta2=0.1, batch_size=B, type="switch", lr=0.0)
    for (g,) in gradients(ps, 40):
        p.grad = g
        optimizer.step()
    state = optimizer.state[p]
    K, L = state["factors"][:16].view(4, 4).double(), state["factors"][16:].view(3, 3).double()
    P = torch.kron(K @ K.T, L @ L.T)
    uphill = torch.linalg.solve(P, P @ g.double().flatten())
    for j, mu in enumerate((0.5, 0.9)):
        dot = float(uphill @ state[f"momentum_buffer_{j}"].double().flatten())
        expected = dot * math.sqrt((1 - mu**2) / float(P.diag().mean()))
        assert float(optimizer.last_scores[j]) == pytest.approx(expected, rel=1e-5)


def test_the_norm_is_that_of_white_gradients():
    """Gradients of independent elements of variance 1 give a momentum whose mean square in the metric is the norm's."""
    torch.manual_seed(0)
    K = torch.eye(3, dtype=torch.float64) + 0.3 * torch.randn(3, 3, dtype=torch.float64)
    L = torch.eye(4, dtype=torch.float64) + 0.3 * torch.randn(4, 4, dtype=torch.float64)
    P, mu, b, squares = torch.kron(K @ K.T, L @ L.T), 0.8, torch.zeros(500, 12, dtype=torch.float64), []
    inverse = torch.linalg.inv(P)
    for t in range(300):
        b = mu * b + torch.randn(500, 12, dtype=torch.float64) @ P
        if t >= 50:
            squares.append((b * (b @ inverse)).sum(1).mean())
    W = float((K @ K.T).trace() / 3 * (L @ L.T).trace() / 4)
    assert float(torch.stack(squares).mean()) / 12 == pytest.approx(W / (1 - mu**2), rel=0.02)


# ---------------------------------------------------------------- the state
def test_a_huge_axis_has_a_diagonal_factor():
    """A vocabulary: 50,000 numbers rather than 2.5 billion."""
    ps = parameters(shapes=[(50_000, 3)])
    optimizer = gap_hf.IFShampoo(ps, batch_size=B)
    run(optimizer, ps, 0, 3)
    state = optimizer.state[ps[0]]
    assert state["factors"].numel() == state["factor_momenta"].numel() == 50_000 + 9
    assert torch.isfinite(ps[0]).all()
    assert not torch.equal(state["factors"][:50_000], torch.ones(50_000))


def test_at_first_the_factors_are_identities():
    ps = parameters(shapes=[(3, 2), (7,)])
    optimizer = gap_hf.IFShampoo(ps, batch_size=B, max_axis=5)
    state = [optimizer.make_state(0, p) for p in ps]
    assert torch.equal(state[0]["factors"], torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1]))
    assert torch.equal(state[1]["factors"], torch.ones(7))
    assert not state[0]["factor_momenta"].any()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("state_dtype", [None, "float32", "bfloat16"])
def test_in_bfloat16(kernel, state_dtype):
    """The factors are in float32: in bfloat16, changes of less than 0.4 % would be rounded away."""
    ps, qs = parameters(torch.bfloat16), parameters()
    options = {"lr": 1e-2, "batch_size": B, "momentum": [0.0, 0.9], "type": "switch", **KERNELS[kernel]}
    optimizer, wide = gap_hf.IFShampoo(ps, state_dtype=state_dtype, **options), gap_hf.IFShampoo(qs, **options)
    for grads in gradients(ps, 100):
        for p, q, g in zip(ps, qs, grads, strict=True):
            p.grad, q.grad = g, g.float()
        optimizer.step()
        wide.step()
    for p, q in zip(ps, qs, strict=True):
        assert torch.isfinite(p).all()
        assert optimizer.state[p]["factors"].dtype == torch.float32
        expected = torch.float32 if state_dtype == "float32" else torch.bfloat16
        assert optimizer.state[p]["momentum_buffer_0" if expected is None else "momentum_buffer_1"].dtype == expected
        torch.testing.assert_close(optimizer.state[p]["factors"], wide.state[q]["factors"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_a_gradient_a_parameter_is_left_alone(kernel):
    ps = parameters()
    optimizer = gap_hf.IFShampoo(ps, 0.1, [0.0, 0.9], batch_size=B, type="switch", **KERNELS[kernel])
    run(optimizer, ps, 0, 2)
    for p in ps:
        p.grad = None
    ps[0].grad = torch.ones_like(ps[0])
    before = copy.deepcopy([(p, optimizer.state[p]) for p in ps[1:]])
    optimizer.step()
    for p, (value, state) in zip(ps[1:], before, strict=True):
        assert torch.equal(p, value)
        assert all(torch.equal(optimizer.state[p][name], kept) for name, kept in state.items())


def test_a_soft_reset_leaves_the_factors():
    ps = parameters()
    optimizer = gap_hf.IFShampoo(ps, 0.0, [0.9, 0.99], batch_size=B, type="switch", hysteresis_threshold=1)
    for sign in (1, 1, 1, -1):
        for i, p in enumerate(ps):
            p.grad = None if i == 1 and sign < 0 else sign * torch.ones_like(p)
        before = {key: value.clone() for key, value in state_of(optimizer).items()}
        optimizer.step()
    assert optimizer.last_resets
    after = state_of(optimizer)
    assert torch.equal(after[1, "momentum_buffer_0"], before[1, "momentum_buffer_0"] / 2)
    assert torch.equal(after[1, "factors"], before[1, "factors"])


def test_the_interval_counts_the_parameters_own_steps():
    ps = parameters(shapes=[(3, 2), (4,)])
    optimizer = gap_hf.IFShampoo(ps, batch_size=B, update_interval=3)
    changed = {0: [], 1: []}
    for t, grads in enumerate(gradients(ps, 10)):
        for i, (p, g) in enumerate(zip(ps, grads, strict=True)):
            p.grad = g if i == 0 or t >= 2 else None
        before = [optimizer.state[p]["factors"].clone() if optimizer.state[p] else None for p in ps]
        optimizer.step()
        for i, p in enumerate(ps):
            if p.grad is not None and (before[i] is None or not torch.equal(before[i], optimizer.state[p]["factors"])):
                changed[i].append(t)
    assert changed == {0: [0, 3, 6, 9], 1: [2, 5, 8]}


def test_the_batch_size_scales_the_curvature():
    """Gradients are means over B items: those of 4 B items are half as long, and the curvature is the same."""
    ps, qs = parameters(), parameters()
    one, four = gap_hf.IFShampoo(ps, batch_size=B), gap_hf.IFShampoo(qs, batch_size=4 * B)
    for grads in gradients(ps, 20):
        for p, q, g in zip(ps, qs, grads, strict=True):
            p.grad, q.grad = g, g / 2
        one.step()
        four.step()
    for p, q in zip(ps, qs, strict=True):
        torch.testing.assert_close(one.state[p]["factors"], four.state[q]["factors"], rtol=1e-5, atol=1e-6)
