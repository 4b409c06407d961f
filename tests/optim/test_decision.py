"""Steps that say nothing, because a score is not finite: the choice stands, and the decision tells."""

import pytest
import torch

import gap_hf

from .twins import KERNELS, random_gradients

ADAM = {"betas": [(0.5, 0.9), (0.9, 0.99), (0.99, 0.999)]}
SGDM = {"momentum": [0.5, 0.9]}
FAMILIES = {"adam": (gap_hf.Adam, ADAM), "sgdm": (gap_hf.SGDM, SGDM)}


def built(family, type_, kernel):
    generator = torch.Generator().manual_seed(0)
    ps = [torch.randn(shape, generator=generator).requires_grad_() for shape in [(6, 5), (4,), (), (0,)]]
    cls, options = FAMILIES[family]
    return ps, cls([{"params": ps[:2]}, {"params": ps[2:]}], type=type_, **options, **KERNELS[kernel])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bad_gradient_is_told_and_one_that_is_missing_is_not(family, type_, kernel, bad):
    ps, optimizer = built(family, type_, kernel)
    for _ in random_gradients(ps, 4):
        ps[0].grad = None
        optimizer.step()
        assert optimizer.decision().not_counted() == [0, 0]
    before = [group["last_choice"] for group in optimizer.param_groups]
    for p in ps:
        p.grad = torch.ones_like(p)
    ps[1].grad.fill_(bad)  # 1e30 has a square that float32 takes for infinite, and then r is 0 everywhere
    ps[2].grad = None
    optimizer.step()
    assert optimizer.decision().not_counted() == ([1, 1] if type_ == "switch" else [1, 0])
    after = [group["last_choice"] for group in optimizer.param_groups]
    if type_ == "switch":
        assert before == after
    else:
        assert before[0][1] == after[0][1]


def test_scores_of_a_group_that_two_kernels_share():
    """A float64 parameter goes to the loop, the other to the fused kernel, which chooses first."""
    ps = [torch.ones(4, 3, requires_grad=True), torch.ones(5, dtype=torch.float64, requires_grad=True)]
    optimizer = gap_hf.GapAdamW(ps)
    for p in ps:
        p.grad = torch.ones_like(p)
    optimizer.step()
    (J,) = optimizer.decision().scores_by_parameter()
    assert J.isfinite().all()
    ps[1].grad = None
    optimizer.step()
    (J,) = optimizer.decision().scores_by_parameter()
    assert J[0].isfinite().all()
    assert J[1].isnan().all()
