"""Inverse-free Shampoo: against its reference and the published package, and what its factors are kept in.

(Layouts and checkpoints: tests/sharding. The factors by themselves: tests/optim/test_kronecker.py.)
"""

import copy
import math

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainingArguments
from transformers.trainer import Trainer

import gap_hf
from gap_hf.optim.reference.if_shampoo import ReferenceIFShampoo

B = 16
KERNELS = {"foreach": {"foreach": True}, "loop": {"foreach": False}}
SHAPES = [(7, 5), (30,), (), (2, 3, 4), (6, 1, 3), (0, 3)]
FAST = {"beta2": 0.05, "alpha2": 0.8, "damping": 0.1}
CASES = {
    "default": {"type": "default", "momentum": 0.9},
    "default-plain": {"type": "default", "momentum": 0.0, "maximize": True, "weight_decay": 0.1},
    "switch": {"type": "switch", "momentum": [0.0, 0.9, 0.99], "J_ema": 0.5},
    "switch-each": {"type": "switch_parameter_wise", "momentum": [0.5, 0.9], "lr_modulation": True, **FAST},
    "switch-maximize": {"type": "switch", "momentum": [0.9, 0.5], "maximize": True, "weight_decay": 0.1},
    "interval": {"type": "switch", "momentum": [0.5, 0.9, 0.99], "update_interval": 3, **FAST},
    "diagonal": {"type": "switch_parameter_wise", "momentum": [0.0, 0.9], "max_axis": 1, "hysteresis_threshold": 2},
    "capped": {"type": "switch", "momentum": [0.0, 0.9, 0.99], "max_axis": 5, "weight_decay": 0.1, **FAST},
    "undamped": {"type": "switch", "momentum": [0.5, 0.9], "damping": 0.0},
    "mix": {"type": "mix", "momentum": [0.0, 0.9, 0.99], "weights": (0.3, 0.6, 0.1)},
    "mix-score": {"type": "mix", "momentum": [0.0, 0.9, 0.99], "weights": "score", "J_ema": 0.5},
    "mix-each": {"type": "mix_parameter_wise", "momentum": [0.0, 0.9], "weights": "score", **FAST},
    "random": {"type": "random", "momentum": [0.5, 0.9, 0.99], "seed": 3},
}


def parameters(dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def gradients(ps, steps, scale=1.0):
    """Noise around a mean that turns around now and then."""
    generator = torch.Generator().manual_seed(1)
    for t in range(steps):
        mean = (-1) ** (t // 12)
        yield [(scale * (torch.randn(p.shape, generator=generator) + mean)).to(p.dtype) for p in ps]


def run(optimizer, ps, first, last):
    """Take the steps from ``first`` to ``last``; the second parameter has no gradient on every third."""
    for t, grads in enumerate(gradients(ps, last)):
        if t >= first:
            for i, (p, g) in enumerate(zip(ps, grads, strict=True)):
                p.grad = None if i == 1 and t % 3 == 2 else g
            optimizer.step()


def state_of(optimizer):
    return {(i, name): value for i, s in optimizer.state_dict()["state"].items() for name, value in s.items()}


# ---------------------------------------------------------------- the same as others
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
    state = [optimizer.make_state(optimizer.param_groups[0], p) for p in ps]
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


def test_in_eight_bits():
    pytest.importorskip("torchao")
    ps = parameters(shapes=[(64, 128), (7,)])
    optimizer = gap_hf.IFShampoo(ps, 1e-3, [0.5, 0.9], batch_size=B, type="switch", state_dtype="8bit")
    run(optimizer, ps, 0, 5)
    assert type(optimizer.state[ps[0]]["momentum_buffer_0"]).__name__ == "OptimState8bit"
    assert optimizer.state[ps[0]]["factors"].dtype == torch.float32
    assert all(torch.isfinite(p).all() for p in ps)


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


class Reads(TorchDispatchMode):
    """Collects the tensors whose value the host reads."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_local_scalar_dense" in str(func) or "nonzero" in str(func):
            self.found.append(args[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", ["default", "interval", "mix"])
def test_nothing_waits_for_the_device(case, kernel):
    """The host reads only the counts of steps, which it has; a choice by scores is read, too, once a step."""
    ps = parameters()
    optimizer = gap_hf.IFShampoo(ps, batch_size=B, **CASES[case], **KERNELS[kernel])
    run(optimizer, ps, 0, 2)
    with Reads() as reads:
        run(optimizer, ps, 2, 6)
    steps = {optimizer.state[p]["step"].data_ptr() for p in ps}
    others = [t for t in reads.found if t.data_ptr() not in steps]
    assert reads.found
    assert all(optimizer.state[p]["step"].device.type == "cpu" for p in ps)
    if case != "interval":
        assert not others
    else:
        assert len(others) <= 4 * 2, "what was chosen, and whether a reset is due"


# ---------------------------------------------------------------- saving and loading
@pytest.mark.parametrize("case", ["default", "switch", "interval", "capped", "mix-each"])
def test_resume_is_bitwise_and_leaves_the_callers_dict_alone(case, tmp_path):
    ps, qs = parameters(), parameters()
    one, two = (gap_hf.IFShampoo(x, batch_size=B, **CASES[case]) for x in (ps, qs))
    run(one, ps, 0, 8)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=False)
    kept = copy.deepcopy(saved)
    for p, q in zip(ps, qs, strict=True):
        q.data.copy_(p.data)
    two.load_state_dict(saved)
    assert saved.keys() == kept.keys()
    assert saved["param_groups"] == kept["param_groups"]
    for i, state in kept["state"].items():
        assert saved["state"][i].keys() == state.keys()
        assert all(torch.equal(saved["state"][i][name], value) for name, value in state.items())
    run(one, ps, 8, 16)
    run(two, qs, 8, 16)
    for p, q in zip(ps, qs, strict=True):
        assert torch.equal(p, q)
    assert all(torch.equal(one.state[p]["factors"], two.state[q]["factors"]) for p, q in zip(ps, qs, strict=True))


def test_a_closure():
    ps = parameters()
    optimizer = gap_hf.IFShampoo(ps, batch_size=B)

    def closure():
        for p in ps:
            p.grad = torch.ones_like(p)
        return torch.tensor(3.0)

    assert optimizer.step(closure) == 3
    assert all(float(optimizer.state[p]["step"]) == 1 for p in ps)


def test_a_copy_goes_on_alike():
    ps = parameters()
    optimizer = gap_hf.IFShampoo(ps, batch_size=B, **CASES["switch"])
    run(optimizer, ps, 0, 5)
    other = copy.deepcopy(optimizer)
    qs = other.param_groups[0]["params"]
    run(optimizer, ps, 5, 10)
    run(other, qs, 5, 10)
    assert all(torch.equal(p, q) for p, q in zip(ps, qs, strict=True))


def test_through_torchs_checkpoints_and_by_name():
    models = [torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 2)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    one, two = (gap_hf.IFShampoo(m.parameters(), batch_size=B, **CASES["switch"]) for m in models)
    ps, qs = (list(m.parameters()) for m in models)
    run(one, ps, 0, 5)
    models[1].load_state_dict(models[0].state_dict())
    set_optimizer_state_dict(models[1], two, copy.deepcopy(get_optimizer_state_dict(models[0], one)))
    run(one, ps, 5, 9)
    run(two, qs, 5, 9)
    assert all(torch.equal(p, q) for p, q in zip(ps, qs, strict=True))
    assert gap_hf.consolidated_state_dict(one, models[0])["state"]["0.weight"]["factors"].shape == (4 * 4 + 5 * 5,)


def test_a_state_with_other_factors_is_refused():
    ps, qs = parameters(), parameters()
    one, two = gap_hf.IFShampoo(ps, batch_size=B), gap_hf.IFShampoo(qs, batch_size=B, max_axis=5)
    run(one, ps, 0, 2)
    run(two, qs, 0, 2)
    damaged, before = copy.deepcopy(one.state_dict()), copy.deepcopy(state_of(two))
    damaged["state"][0]["factors"] = damaged["state"][0]["factors"][:-1]
    with pytest.raises(ValueError, match=r"factors of parameter 0 of group 0 has the shape \(73,\)"):
        two.load_state_dict(damaged)
    assert all(torch.equal(value, before[key]) for key, value in state_of(two).items())
    two.load_state_dict(one.state_dict())
    assert two.param_groups[0]["max_axis"] == 4096, "the checkpoint's, which its factors were made with"


# ---------------------------------------------------------------- options
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beta2": 1.0}, ValueError, r"beta2=1.0 is out of range; expected a number in \[0, 1\)"),
        ({"alpha2": -0.1}, ValueError, "alpha2=-0.1 is out of range"),
        ({"damping": -1.0}, ValueError, "damping=-1.0 is out of range"),
        ({"update_interval": 0}, ValueError, "update_interval=0 is out of range; expected a whole number of steps"),
        ({"update_interval": 2.0}, ValueError, "update_interval=2.0 is out of range"),
        ({"max_axis": 0}, ValueError, "max_axis=0 is out of range"),
        ({"momentum": [0.5, 0.9]}, ValueError, "takes one candidate, got 2"),
        ({"momentum": 1.0}, ValueError, "momentum=1.0 is malformed or out of range"),
        ({"capturable": True}, TypeError, "capturable"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        gap_hf.IFShampoo(parameters(), batch_size=B, **options)


def test_there_is_no_fused_kernel():
    ps = parameters()
    optimizer = gap_hf.IFShampoo(ps, batch_size=B, fused=True)
    with pytest.raises(RuntimeError, match="fused=True can't be done: there is none for cpu in the if_shampoo family"):
        run(optimizer, ps, 0, 1)
    assert not any(optimizer.state[p].get("step", 0) for p in ps)


def test_the_batch_size_is_never_guessed():
    with pytest.raises(TypeError, match="batch_size"):
        gap_hf.IFShampoo(parameters())
    ps = parameters()
    optimizer = gap_hf.IFShampoo(ps, batch_size="told")
    with pytest.raises(ValueError, match="nobody has called tell_batch_size before this step"):
        run(optimizer, ps, 0, 1)
    optimizer.tell_batch_size(5)
    run(optimizer, ps, 0, 1)
    assert optimizer.param_groups[0]["last_batch_size"] == 5


def test_as_a_name_in_trainer(tmp_path):
    text = "momentum=0.5:0.9,type=switch,update_interval=10,max_axis=1024,damping=1e-4"
    args = TrainingArguments(str(tmp_path), optim="if_shampoo", use_cpu=True, report_to=[], optim_args=text)
    cls, options = Trainer.get_optimizer_cls_and_kwargs(args)
    group = cls(parameters(), **options).param_groups[0]
    assert cls is gap_hf.IFShampoo
    assert [group[name] for name in ("momentum", "update_interval", "max_axis", "damping", "batch_size")] == [
        [0.5, 0.9], 10, 1024, 1e-4, "told",
    ]  # fmt: skip
