"""Paired differences and their intervals."""

import math

import pytest

from gap_hf.report.paired import Difference, difference, signed


def test_interval_by_hand():
    """Differences 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / sqrt(3); t with two degrees of freedom is 4.3027."""
    found = difference({1: 1.1, 2: 2.2, 3: 3.3}, {1: 1.0, 2: 2.0, 3: 3.0})
    assert found.mean == pytest.approx(0.2)
    assert found.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert found.pairs == 3


def test_pairs_are_by_seed():
    """The order does not matter; a seed that only one side has is left out."""
    found = difference({3: 5.0, 1: 1.0, 2: 2.0}, {2: 1.0, 3: 4.0, 7: 100.0})
    assert (found.mean, found.half, found.pairs) == (1.0, 0.0, 2)


def test_one_seed_has_no_interval():
    found = difference({1: 2.0}, {1: 1.5})
    assert found == Difference(0.5, None, 1)
    assert (found.sign, found.text) == (0, "+0.5000")


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_diverged_run_has_no_difference(lost):
    assert difference({1: 1.0, 2: lost}, {1: 1.0, 2: 1.0}) is None


def test_no_shared_seed():
    assert difference({1: 1.0}, {2: 1.0}) is None


@pytest.mark.parametrize(("mean", "sign"), [(-0.5, -1), (-0.4, 0), (0.0, 0), (0.4, 0), (0.5, 1)])
def test_sign(mean, sign):
    assert Difference(mean, 0.4, 3).sign == sign


def test_text():
    assert Difference(-0.01234, 0.00456, 3).text == "-0.0123 ± 0.0046"
    assert Difference(-0.01234, 0.00456, 3).size == "0.0123 ± 0.0046"
    assert signed(-0.00001) == "+0.0000"
