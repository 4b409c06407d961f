"""How clearly a candidate won, by hand and through every kernel."""

import math

import numpy as np
import pytest
import torch

import gap_hf
from gap_hf.choices.margin import margin

from ..optim.twins import random_gradients

NAN = math.nan
BETAS = [(0.5, 0.999), (0.9, 0.999), (0.99, 0.999)]


def margins_of(optimizer) -> list[np.ndarray]:
    """Each group's margins at the last step."""
    decision = optimizer.decision()
    return [
        margin(J.numpy(), choice.numpy())
        for J, choice in zip(decision.scores_by_parameter(), decision.choices, strict=True)
    ]


@pytest.mark.parametrize(
    ("J", "candidate", "expected"),
    [
        ([3.0, 1.0], 0, 0.5),
        ([1.0, 3.0], 0, -0.5),
        ([2.0, -2.0], 0, 1.0),
        ([2.0, 2.0], 1, 0.0),
        ([1.0, 4.0, 2.0], 1, 1 / 3),
        ([-1.0, -3.0], 0, 0.5),
        ([0.0, 0.0], 0, NAN),
        ([1.0], 0, NAN),
        ([NAN, 1.0], 1, NAN),
        ([math.inf, 1.0], 0, NAN),
        ([math.inf, math.inf], 1, NAN),
    ],
)
def test_by_hand(J, candidate, expected):
    found = margin(np.array(J), candidate).item()
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("family", [gap_hf.GapAdamW, gap_hf.SGDM])
def test_every_kernel_finds_the_same(family):
    """Of several groups, with a parameter that has no gradient."""
    found = []
    for flags in ({}, {"foreach": True}, {"foreach": False}):
        torch.manual_seed(0)
        params = [torch.randn(shape, requires_grad=True) for shape in ((5, 7), (300,), (), (4, 4))]
        candidates = {"momentum": [0.5, 0.9, 0.99]} if family is gap_hf.SGDM else {"betas": BETAS}
        optimizer = family(
            [{"params": params[:3]}, {"params": params[3:]}],
            lr=0.1,
            type="switch_parameter_wise",
            **candidates,
            **flags,
        )
        steps = []
        for _ in random_gradients(params, 6):
            params[1].grad = None
            optimizer.step()
            steps.append([margins.tolist() for margins in margins_of(optimizer)])
        found.append(steps)
    for steps in found:
        assert [len(group) for group in steps[0]] == [3, 1]
        assert all(math.isnan(first[1]) for first, _ in steps)
        assert all(0 <= m <= 1 + 1e-9 for first, second in steps[1:] for m in (first[0], first[2], second[0]))
        for mine, theirs in zip(steps, found[0], strict=True):
            for group, other in zip(mine, theirs, strict=True):
                assert group == pytest.approx(other, rel=1e-4, abs=1e-6, nan_ok=True)


def test_of_a_group_without_a_gradient():
    """As wide as its own candidates are many."""
    used, unused = torch.randn(5, requires_grad=True), torch.randn(3, requires_grad=True)
    groups = [{"params": [used], "betas": BETAS[:2]}, {"params": [unused], "betas": BETAS}]
    optimizer = gap_hf.GapAdamW(groups, type="switch_parameter_wise")
    used.grad = torch.ones(5)
    optimizer.step()
    first, second = optimizer.decision().scores_by_parameter()
    assert (first.shape, second.shape) == ((1, 2), (1, 3))
    assert first.isfinite().all()
    assert second.isnan().all()
    assert np.isnan(margins_of(optimizer)[1]).all()


def test_shapes():
    rng = np.random.default_rng(0)
    J, candidate = rng.normal(size=(4, 5, 3)), rng.integers(0, 3, size=(4, 5))
    found = margin(J, candidate)
    assert found.shape == (4, 5)
    for i in np.ndindex(4, 5):
        assert found[i] == margin(J[i], candidate[i])
    assert margin(np.empty((0, 3)), np.empty(0, dtype=np.int64)).shape == (0,)


def test_of_one_choice_for_all():
    p = torch.randn(50, requires_grad=True)
    optimizer = gap_hf.GapAdamW([p], betas=BETAS, type="switch")
    for _ in random_gradients([p], 4):
        optimizer.step()
    choice, J = optimizer.param_groups[0]["last_choice"], optimizer.last_scores.tolist()
    other = max(score for k, score in enumerate(J) if k != choice)
    expected = (J[choice] - other) / (abs(J[choice]) + abs(other))
    assert [margins.item() for margins in margins_of(optimizer)] == [pytest.approx(expected)]
