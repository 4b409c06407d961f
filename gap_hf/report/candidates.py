"""The candidates of a run, each of them once and in order, however the groups list them."""

import numpy as np

from ..candidate import Candidate
from ..choices import Choices


def all_candidates(choices: Choices) -> list[Candidate]:
    """List every candidate that some parameter has, by value; candidates without a value come last, as listed."""
    candidates = dict.fromkeys(candidate for one in choices.candidates for candidate in one)
    by_value = sorted((c.value, c.label, c) for c in candidates if c.value is not None)
    return [*(candidate for _, _, candidate in by_value), *(c for c in candidates if c.value is None)]


def candidate_indices(choices: Choices, candidates: list[Candidate]) -> np.ndarray:
    """Turn the choices ``(T, P)`` into indices into ``candidates``, however each parameter lists its own."""
    widest = max(map(len, choices.candidates))
    table = np.array([[*map(candidates.index, one)] + [0] * (widest - len(one)) for one in choices.candidates])
    return table[np.arange(len(choices.candidates)), choices.choices]


def values_of(candidates: list[Candidate]) -> np.ndarray | None:
    """Return the candidates' values, for taking means; None if a candidate has no value."""
    values = [candidate.value for candidate in candidates]
    return None if None in values else np.array(values, dtype=np.float64)


def display_names(choices: Choices, candidates: list[Candidate]) -> list[str]:
    """Name candidates for readers: ``beta1 = 0.8``, ``beta1/beta2 = 0.8/0.99``; without a value the label alone."""
    return [
        candidate.label
        if candidate.value is None
        else f"{choices.candidate}{'/beta2' if '/' in candidate.label else ''} = {candidate.label}"
        for candidate in candidates
    ]
