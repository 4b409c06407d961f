"""The bytes that a step must move between memory and processor, whatever does the arithmetic."""

from collections.abc import Callable

Traffic = Callable[[float, int, int], float]
"""A function of the bytes of state per element, K, and the bytes of a value; it returns bytes per element.

Every step reads the gradients once and reads and writes the values once. Second moments have the values' dtype, but at
least 4 bytes if the state's dtype is not theirs.
"""


def one_pass(state: float, K: int, value: int) -> float:
    """Everything is read and written once: also where the second pass finds what it needs in the cache."""
    return 3 * value + 2 * state


def picked(state: float, K: int, value: int) -> float:
    """A second pass reads the chosen first moment and the second moment again."""
    second = 4 if state != (K + 1) * value else value
    return one_pass(state, K, value) + second + (state - second) / K


def scored(state: float, K: int, value: int) -> float:
    """A second pass reads all moments again."""
    return one_pass(state, K, value) + state


def scored_with_gradient(state: float, K: int, value: int) -> float:
    """And the gradient, which is a candidate."""
    return scored(state, K, value) + value
