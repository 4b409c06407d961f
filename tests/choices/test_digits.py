"""Choices and margins as text."""

import math

import numpy as np
import pytest

from gap_hf.choices.digits import MOST_CANDIDATES, digits, margin_digits, read_digits, read_margins


def test_every_digit_reads_back():
    text = digits(range(MOST_CANDIDATES))
    assert text == "0123456789abcdefghijklmnopqrstuvwxyz"
    assert read_digits(text).tolist() == list(range(36))
    assert read_digits("").tolist() == []


@pytest.mark.parametrize("text", ["A", "0-", "1 ", "é"])
def test_what_is_no_digit(text):
    with pytest.raises(ValueError, match="in the place of a digit"):
        read_digits(text)


def test_margins():
    values = [0.0, 0.01, 0.5, 0.99, 1.0, -1e-7, math.nan]
    text = margin_digits(values)
    assert text[-2:] == "0-", "a tie, and nothing to choose by"
    assert read_margins(text).tolist() == pytest.approx(values, abs=0.5 / 35 + 1e-6, nan_ok=True)
    assert margin_digits(np.array([-3.0, 2.0])) == "0z"
