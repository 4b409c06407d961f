"""The candidates of a run as labels: every value once, in order, whatever order each group lists them in."""

import numpy as np

from ..trainer.record import Choices


def all_labels(choices: Choices) -> list[str]:
    """Every candidate that some parameter has, by value."""
    labels = dict.fromkeys(label for one in choices.labels for label in one)
    return sorted(labels, key=lambda label: [float(number) for number in label.split("/")])


def label_indices(choices: Choices, labels: list[str]) -> np.ndarray:
    """The choices ``(T, P)`` as indices into ``labels``, whatever order each parameter lists its candidates in."""
    widest = max(map(len, choices.labels))
    table = np.array([[labels.index(label) for label in one] + [0] * (widest - len(one)) for one in choices.labels])
    return table[np.arange(len(choices.labels)), choices.choices]


def display_names(choices: Choices, labels: list[str]) -> list[str]:
    """Labels as people read them: ``beta1 = 0.8``, ``beta1/beta2 = 0.8/0.99``."""
    return [f"{choices.candidate}{'/beta2' if '/' in label else ''} = {label}" for label in labels]
