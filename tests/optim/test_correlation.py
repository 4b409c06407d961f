"""The correlation of successive gradients, against a direct computation."""

import copy
import math
from itertools import pairwise

import pytest
import torch

import gap_hf
from gap_hf.optim.correlation import ELEMENTS, FRAGMENTS


def build(sizes: list[int], groups: int = 1, **options) -> torch.optim.Optimizer:
    parameters = [torch.nn.Parameter(torch.ones(size)) for size in sizes]
    given = {"lr": 1e-3, "momentum": [0.5, 0.9], "type": "switch_parameter_wise"} | options
    return gap_hf.SGDM([{"params": parameters[g::groups]} for g in range(groups)], **given)


def parameters_of(optimizer) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double()[:ELEMENTS], b.double()[:ELEMENTS]
    return float(a @ b / a.norm() / b.norm())


def steps(optimizer, rows: list[list[torch.Tensor | None]]) -> None:
    for row in rows:
        for p, grad in zip(parameters_of(optimizer), row, strict=True):
            p.grad = None if grad is None else grad.clone()
        optimizer.step()


def random_rows(optimizer, count: int, seed: int = 0) -> list[list[torch.Tensor | None]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(p.shape, generator=generator) + 0.3 for p in parameters_of(optimizer)] for _ in range(count)]


def expected(rows) -> float:
    """The mean over steps and parameters that had a gradient in a step and in the one before it."""
    found = [
        cosine(before, now)
        for first, second in pairwise(rows)
        for before, now in zip(first, second, strict=True)
        if before is not None and now is not None
    ]
    return sum(found) / len(found)


@pytest.mark.parametrize("type", ["switch", "switch_parameter_wise", "mix", "first"])
@pytest.mark.parametrize("groups", [1, 3])
def test_against_a_direct_computation(type, groups):
    optimizer = build([7, 1000, ELEMENTS + 500, 12, 3], groups, type=type)
    rows = random_rows(optimizer, 5)
    optimizer.gradient_correlation.measure(4)
    steps(optimizer, rows)
    assert optimizer.gradient_correlation.result() == pytest.approx(expected(rows), abs=1e-5)
    assert optimizer.gradient_correlation.result() is None, "nothing new"


def test_parameters_without_a_gradient():
    """Of one that left a step out, its next gradient has none before it: that would not be the one of a step before."""
    optimizer = build([5, 6, 7])
    rows = random_rows(optimizer, 6)
    rows[2][0] = rows[3][1] = rows[4][1] = None
    rows[1] = [None] * 3
    optimizer.gradient_correlation.measure(5)
    steps(optimizer, rows)
    assert optimizer.gradient_correlation.result() == pytest.approx(expected(rows), abs=1e-5)


def test_gradients_that_say_nothing():
    """Zeros, NaN and infinity have no direction."""
    optimizer = build([5, 6])
    rows = random_rows(optimizer, 4)
    rows[1][0].zero_()
    rows[2][0][1] = math.inf
    rows[3][0][1] = math.nan
    optimizer.gradient_correlation.measure(3)
    steps(optimizer, rows)
    assert optimizer.gradient_correlation.result() == pytest.approx(expected([row[1:] for row in rows]), abs=1e-5)
    optimizer.gradient_correlation.measure(3)
    steps(optimizer, [[torch.zeros(5), torch.zeros(6)]] * 3)
    assert optimizer.gradient_correlation.result() is None


def test_a_sample_of_many_parameters():
    """Evenly over the model, and no more than that: of 40, every third."""
    optimizer = build([4] * 40)
    rows = random_rows(optimizer, 2)
    optimizer.gradient_correlation.measure(1)
    steps(optimizer, rows)
    assert FRAGMENTS >= 14
    assert optimizer.gradient_correlation.result() == pytest.approx(expected([row[::3] for row in rows]), abs=1e-5)


def test_only_as_many_steps_as_asked_for():
    optimizer = build([5, 6])
    rows = random_rows(optimizer, 8)
    steps(optimizer, rows[:2])
    assert optimizer.gradient_correlation.result() is None, "nobody has asked"
    optimizer.gradient_correlation.measure(3)
    steps(optimizer, rows[2:])
    assert optimizer.gradient_correlation.before == {}, "nothing is kept that nobody waits for"
    assert optimizer.gradient_correlation.result() == pytest.approx(expected(rows[2:6]), abs=1e-5)


def test_windows_that_follow_each_other():
    """Asked again in time, the step before is still known: with a log at every step, each has its own value."""
    optimizer = build([5, 6])
    rows = random_rows(optimizer, 5)
    optimizer.gradient_correlation.measure(8)
    for t, row in enumerate(rows):
        steps(optimizer, [row])
        found = optimizer.gradient_correlation.result()
        assert found == (None if t == 0 else pytest.approx(expected(rows[t - 1 : t + 1]), abs=1e-5))
        optimizer.gradient_correlation.measure(8)


def test_half_precision_is_measured_in_single():
    optimizer = build([5000, 6], type="switch")
    for p in parameters_of(optimizer):
        p.data = p.data.bfloat16()
    rows = [[grad.bfloat16() for grad in row] for row in random_rows(optimizer, 3)]
    optimizer.gradient_correlation.measure(2)
    steps(optimizer, rows)
    assert optimizer.gradient_correlation.result() == pytest.approx(expected(rows), abs=1e-5)


def test_a_copied_optimizer_measures_for_itself():
    optimizer = build([5, 6])
    optimizer.gradient_correlation.measure(3)
    steps(optimizer, random_rows(optimizer, 2))
    other = copy.deepcopy(optimizer)
    assert other.gradient_correlation.result() is None
    assert optimizer.gradient_correlation.result() is not None
