"""Adams against its reference and the published package, and where that goes wrong. (Layouts: tests/sharding.)"""

import copy
import logging

import pytest
import torch

import gap_hf
from gap_hf.optim.reference.adams import ReferenceAdams

from .twins import KERNELS

SHAPES = [(12, 5), (3, 40), (7,), (), (0, 4), (2, 3, 6, 4), (1, 9), (8, 8)]
BETAS = [(0.5, 0.95), (0.95, 0.95)]
RULES = [
    {},
    {"betas": BETAS, "type": "switch", "J_ema": 0.5, "lr_modulation": True},
    {"betas": BETAS, "type": "switch_parameter_wise", "hysteresis_threshold": 2, "maximize": True},
    {"betas": BETAS, "type": "mix", "weights": (0.3, 0.7), "scalar_vector_weight_decay": 0.0},
    {"betas": BETAS, "type": "mix", "weights": "score", "bias_correction": "inside"},
    {"betas": BETAS, "type": "mix_parameter_wise", "weights": "score", "use_spectral_decay": False},
    {"betas": BETAS, "type": "random", "seed": 3},
]


def parameters(shapes=SHAPES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def set_gradients(ps, t, size=1.0):
    """Noise around a mean that turns around; some are missing, and some elements never have any."""
    generator = torch.Generator().manual_seed(t)
    for i, p in enumerate(ps):
        g = (torch.randn(p.shape, generator=generator) + (1.2 if t // 10 % 2 else -0.4)) * size
        if p.ndim == 1:
            g[2:4] = 0
        p.grad = None if (t + i) % 7 == 6 else g.to(p.dtype)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("options", RULES, ids=lambda options: f"{options.get('type')}-{options.get('weights')}")
def test_as_the_reference(kernel, options):
    ps, qs = parameters(), parameters()
    optimizer = gap_hf.Adams(ps, lr=0.05, **options, **KERNELS[kernel])
    reference = ReferenceAdams(qs, lr=0.05, **options)
    chosen = set()
    for t in range(60):
        for some in (ps, qs):
            set_gradients(some, t)
        before = [None if p.grad is None else p.grad.clone() for p in ps]
        optimizer.step()
        reference.step()
        for p, q, g in zip(ps, qs, before, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
            assert g is None or torch.equal(p.grad, g), "the gradient is left alone"
        if options:
            choice = optimizer.param_groups[0]["last_choice"]
            assert choice == reference.param_groups[0]["last_choice"], t
            chosen.add(str(choice))
    assert len(chosen) > 1 or not options or "weights" in options


class TestThePublishedPackage:
    """adams-torch 0.0.1."""

    @staticmethod
    def published(ps, **options):
        with pytest.warns(UserWarning, match="single-process"):
            return pytest.importorskip("adams").Adams_ZeRO(ps, **options)

    @pytest.mark.parametrize("size", [1.0, 1e-2, 1e-4])
    def test_the_same_steps(self, size):
        shapes = [shape for shape in SHAPES if 0 not in shape]
        ps, qs = parameters(shapes), parameters(shapes)
        ours, theirs = gap_hf.Adams(ps, lr=0.02), self.published(qs, lr=0.02)
        for t in range(100):
            for some in (ps, qs):
                set_gradients(some, t, size)
            ours.step()
            theirs.step()
        for p, q in zip(ps, qs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=2e-6)

    def test_a_matrix_of_zeros_is_decayed_once_it_has_moved(self):
        """There, u becomes 0 and stays 0: every B of LoRA, which begins as 0, never decays."""
        ps, qs = [torch.zeros(6, 4, requires_grad=True)], [torch.zeros(6, 4, requires_grad=True)]
        ours, theirs = gap_hf.Adams(ps, lr=0.1), self.published(qs, lr=0.1)
        for t in range(30):
            for (p,), optimizer in ((ps, ours), (qs, theirs)):
                p.grad = torch.ones(6, 4) if t < 10 else torch.zeros(6, 4)
                optimizer.step()
            if t == 9:
                moved = [float(p.detach().norm()) for (p,) in (ps, qs)]
        assert float(theirs.state[qs[0]]["u"].abs().max()) == 0
        assert ours.state[ps[0]]["left_vector"].norm() > 1
        without = gap_hf.Adams(rs := [torch.zeros(6, 4, requires_grad=True)], lr=0.1, weight_decay=0)
        for t in range(30):
            rs[0].grad = torch.ones(6, 4) if t < 10 else torch.zeros(6, 4)
            without.step()
        torch.testing.assert_close(qs[0], rs[0])  # as if there were no decay
        assert ps[0].norm() < 0.8 * rs[0].norm()
        assert moved[0] < moved[1]

    def test_no_decay_of_matrices_leaves_that_of_vectors_on(self):
        ps, qs = [torch.ones(3, requires_grad=True)], [torch.ones(3, requires_grad=True)]
        ours, theirs = (make(some, lr=0.1, weight_decay=0) for make, some in ((gap_hf.Adams, ps), (self.published, qs)))
        ps[0].grad = qs[0].grad = torch.zeros(3)
        ours.step()
        theirs.step()
        assert torch.equal(qs[0], torch.ones(3))
        torch.testing.assert_close(ps[0].detach(), torch.full((3,), 0.99))


@pytest.mark.parametrize("kernel", KERNELS)
def test_low_precision(kernel):
    """The state is float32, which loading keeps; steps are those of float32, rounded where they are stored."""
    ps = parameters(dtype=torch.bfloat16)
    optimizer = gap_hf.Adams(ps, lr=0.02, betas=BETAS, type="switch", **KERNELS[kernel])
    twins = [p.detach().float().requires_grad_() for p in ps]
    twin = gap_hf.Adams(twins, lr=0.02, betas=BETAS, type="switch", **KERNELS[kernel])
    for t in range(10):
        set_gradients(ps, t)
        for p, q in zip(ps, twins, strict=True):
            q.data.copy_(p.data)
            q.grad = None if p.grad is None else p.grad.float()
        optimizer.step()
        twin.step()
        for p, q in zip(ps, twins, strict=True):
            torch.testing.assert_close(p.float(), q, rtol=2**-7, atol=1e-6)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert {b.dtype for state in optimizer.state.values() for n, b in state.items() if n != "step"} == {torch.float32}


def test_a_copy_goes_on_alike():
    ps = parameters()
    optimizer = gap_hf.Adams(ps, lr=0.02, betas=BETAS, type="switch")
    for t in range(5):
        set_gradients(ps, t)
        optimizer.step()
    qs, other = copy.deepcopy((ps, optimizer))
    loaded = gap_hf.Adams(rs := copy.deepcopy(ps), lr=0.02, betas=BETAS, type="switch")
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for t in range(5, 10):
        for some, one in ((ps, optimizer), (qs, other), (rs, loaded)):
            set_gradients(some, t)
            one.step()
    assert all(torch.equal(p, q) and torch.equal(p, r) for p, q, r in zip(ps, qs, rs, strict=True))


def test_infinite_and_missing_numbers_are_seen():
    """As by torch.atan2: an infinite gradient makes a bounded step, NaN makes NaN, in every kernel."""
    for flags in KERNELS.values():
        p = torch.ones(20, requires_grad=True)
        optimizer = gap_hf.Adams([p], lr=0.1, **flags)
        p.grad = torch.zeros(20)
        p.grad[0], p.grad[1], p.grad[2] = float("inf"), float("nan"), -1e10
        optimizer.step()
        assert p[0].isfinite()
        assert p[1].isnan()
        assert 1 < p[2] < 1.1


class TestWhichMatricesDecaySpectrally:
    def decayed(self, optimizer, ps):
        """Which of the parameters lost only a part of rank 1, not a tenth of everything."""
        before = [p.detach().clone() for p in ps]
        for p in ps:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        return [not torch.allclose(p, 0.9 * q) for p, q in zip(ps, before, strict=True)]

    def named(self):
        ps = parameters([(4, 3), (3, 4), (5,), (4, 4)])
        return ps, list(zip(("q.lora_A", "q.lora_B", "bias", "v.lora_A"), ps, strict=True))

    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize(
        ("option", "expected"),
        [
            (True, [True, True, False, True]),
            (False, [False] * 4),
            ("lora_A|bias", [True, False, False, True]),
            ([False, True, True, False], [False, True, False, False]),
        ],
    )
    def test_by_name_and_flag(self, option, expected, kernel):
        ps, named = self.named()
        optimizer = gap_hf.Adams(named, lr=1.0, use_spectral_decay=option, **KERNELS[kernel])
        assert self.decayed(optimizer, ps) == expected

    def test_by_attribute_and_group(self):
        ps, _ = self.named()
        ps[0].use_spectral_decay = False
        groups = [{"params": ps[:3]}, {"params": ps[3:], "use_spectral_decay": False}]
        assert self.decayed(gap_hf.Adams(groups, lr=1.0), ps) == [False, True, False, False]

    @pytest.mark.parametrize(
        ("params", "option", "message"),
        [
            (parameters([(4, 3)]), "lora_A", r"searches the parameters' names: give the optimizer model.named"),
            ([("w", torch.ones(4, 3))], "lora(", r"'lora\(' is not a regular expression: missing \), unterminated"),
            (parameters([(4, 3)]), [True, False], "has 2 flags for 1 parameters; give one for each"),
            (parameters([(4, 3)]), 3, "expected True, False, a regular expression, or a list of True and False"),
        ],
    )
    def test_errors(self, params, option, message):
        with pytest.raises(ValueError, match=message):
            gap_hf.Adams(params, use_spectral_decay=option)

    def test_a_group_that_is_refused_is_not_added(self):
        optimizer = gap_hf.Adams(parameters([(2, 2)]))
        with pytest.raises(ValueError, match="one for each"):
            optimizer.add_param_group({"params": parameters([(3, 3)]), "use_spectral_decay": [True, True]})
        assert len(optimizer.param_groups) == 1


def test_warns_before_a_decay_that_diverges(caplog):
    for lr, shape, warns in ((0.8, (1024, 4), True), (0.5, (1024, 4), False), (9.0, (1024,), False)):
        p = torch.ones(shape, requires_grad=True)
        p.grad = torch.zeros(shape)
        optimizer = gap_hf.Adams([p], lr=lr)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            optimizer.step()
            optimizer.step()
        found = [r.message for r in caplog.records if "sqrt(rows)" in r.message]
        assert len(found) == warns
        if warns:
            assert "is 2.56 for a matrix of shape (1024, 4)" in found[0]
            assert "must be below 0.0625" in found[0]
