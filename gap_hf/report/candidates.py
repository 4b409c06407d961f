"""The candidates of a run, each of them once and in order, however the groups list them, and what was applied of each.

"Applied" means picked or, in a mix, given a weight.
"""

from collections.abc import Iterator

import numpy as np

from ..candidate import Candidate
from ..choices import Choices


def all_candidates(choices: Choices) -> list[Candidate]:
    """List every candidate that some parameter has, by value; candidates without a value come last, as listed."""
    candidates = dict.fromkeys(candidate for one in choices.candidates for candidate in one)
    by_value = sorted((c.value, c.label, c) for c in candidates if c.value is not None)
    return [*(candidate for _, _, candidate in by_value), *(c for c in candidates if c.value is None)]


def places(choices: Choices, candidates: list[Candidate]) -> np.ndarray:
    """Say where in ``candidates`` each parameter's own are, ``(P, K)``; -1 in rows of parameters with fewer than K."""
    widest = max(map(len, choices.candidates))
    return np.array([[*map(candidates.index, one)] + [-1] * (widest - len(one)) for one in choices.candidates])


def candidate_indices(choices: Choices, candidates: list[Candidate]) -> np.ndarray:
    """Turn the choices ``(T, P)`` into indices into ``candidates``, however each parameter lists its own."""
    return places(choices, candidates)[np.arange(len(choices.candidates)), choices.choices]


def applied(choices: Choices, candidates: list[Candidate]) -> Iterator[np.ndarray]:
    """Yield for each candidate how much of it was applied, ``(T, P)``: its weight, or whether it was picked."""
    if choices.weights is None:
        chosen = candidate_indices(choices, candidates)
        for k in range(len(candidates)):
            yield chosen == k
    else:
        where = places(choices, candidates)
        for k in range(len(candidates)):
            yield np.einsum("tpj,pj->tp", choices.weights, (where == k).astype(np.float32))


def applied_in(choices: Choices, candidates: list[Candidate], starts: np.ndarray) -> np.ndarray:
    """Add up what was applied of each candidate in each stretch of steps: ``(K, len(starts), P)`` float64."""
    return np.stack([np.add.reduceat(one, starts, axis=0, dtype=np.float64) for one in applied(choices, candidates)])


def applied_values(choices: Choices, candidates: list[Candidate]) -> np.ndarray | None:
    """Return the value that was applied, or a mix's mean value, ``(T, P)``; None if a candidate has no value."""
    values = values_of(candidates)
    if values is None:
        return None
    return sum(value * one for value, one in zip(values, applied(choices, candidates), strict=True))


def stretches(count: int, most: int, least: int = 1) -> np.ndarray:
    """Return the first index of each of at most ``most`` stretches of equal length.

    The last may be shorter, but no stretch is shorter than ``least``, unless there is only one.
    """
    starts = np.arange(0, count, max(-(-count // most), least))
    return starts[:-1] if len(starts) > 1 and count - starts[-1] < least else starts


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
