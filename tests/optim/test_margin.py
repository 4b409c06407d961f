"""How clearly a candidate won, by hand and through every kernel."""

import math

import pytest
import torch

import gap_hf
from gap_hf.optim.choice import margin
from gap_hf.trainer.record import margin_digits, read_margins

from .twins import random_gradients

NAN = math.nan
BETAS = [(0.5, 0.999), (0.9, 0.999), (0.99, 0.999)]


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
    ],
)
def test_by_hand(J, candidate, expected):
    found = margin(torch.tensor(J, dtype=torch.float64), torch.tensor(candidate)).item()
    assert found == pytest.approx(expected, nan_ok=True)


def test_text():
    values = [0.0, 0.01, 0.5, 0.99, 1.0, -1e-7, NAN]
    text = margin_digits(values)
    assert text[-2:] == "0-", "a tie, and nothing to choose by"
    assert read_margins(text).tolist() == pytest.approx(values, abs=0.5 / 35 + 1e-6, nan_ok=True)


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
            steps.append([margins.tolist() for margins in optimizer.decision().margins()])
        found.append(steps)
    for steps in found:
        assert [len(group) for group in steps[0]] == [3, 1]
        assert all(math.isnan(first[1]) for first, _ in steps)
        assert all(0 <= m <= 1 + 1e-9 for first, second in steps[1:] for m in (first[0], first[2], second[0]))
        for mine, theirs in zip(steps, found[0], strict=True):
            for group, other in zip(mine, theirs, strict=True):
                assert group == pytest.approx(other, rel=1e-4, abs=1e-6, nan_ok=True)


def test_of_one_choice_for_all():
    p = torch.randn(50, requires_grad=True)
    optimizer = gap_hf.GapAdamW([p], betas=BETAS, type="switch")
    for _ in random_gradients([p], 4):
        optimizer.step()
    expected = margin(optimizer.last_scores, torch.tensor(optimizer.param_groups[0]["last_choice"])).item()
    assert [margins.item() for margins in optimizer.decision().margins()] == [pytest.approx(expected)]
