"""Choices and margins as text, one character for each."""

import math

import numpy as np
from numpy.typing import ArrayLike

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MOST_CANDIDATES = len(DIGITS)
"""A choice is one digit."""
DIGIT_BYTES = np.frombuffer(DIGITS.encode(), dtype=np.uint8)
MARGIN_BYTES = np.frombuffer(f"{DIGITS}-".encode(), dtype=np.uint8)
VALUES = np.full(256, -1, dtype=np.int64)
"""The value of each byte as a digit; -1 if it is none."""
VALUES[DIGIT_BYTES] = np.arange(len(DIGITS))


def digits(numbers: ArrayLike) -> str:
    """Write whole numbers from 0 to 35 as one digit each."""
    return DIGIT_BYTES[np.asarray(numbers, dtype=np.int64)].tobytes().decode()


def read_digits(text: str) -> np.ndarray:
    """Read the text that ``digits`` made, as int64.

    Raises:
        ValueError: the text holds something else.
    """
    values = VALUES[np.frombuffer(text.encode(), dtype=np.uint8)]
    if (values < 0).any():
        raise ValueError(f"it has {next(c for c in text if c not in DIGITS)!r} in the place of a digit")
    return values


def margin_digits(margins: ArrayLike) -> str:
    """Write margins from 0 to 1 in 35ths, one digit each, and ``-`` for NaN. Those below 0 become 0."""
    scaled = np.rint(35 * np.clip(np.asarray(margins, dtype=np.float64), 0.0, 1.0))
    scaled[np.isnan(scaled)] = len(DIGITS)
    return MARGIN_BYTES[scaled.astype(np.int64)].tobytes().decode()


def read_margins(text: str) -> np.ndarray:
    """Read the text that ``margin_digits`` made, as float64.

    Raises:
        ValueError: the text holds something else.
    """
    values = read_digits(text.replace("-", "0")) / 35
    values[np.frombuffer(text.encode(), dtype=np.uint8) == ord("-")] = math.nan
    return values
