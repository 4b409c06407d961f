"""The margin: how clearly a choice was made."""

import numpy as np
from numpy.typing import ArrayLike


def margin(J: np.ndarray, candidate: ArrayLike) -> np.ndarray:
    """How far the applied candidate's score is ahead of the best of the others: ``(J - J') / (|J| + |J'|)``.

    It lies between -1 and 1: 0 is a draw, and 1 says that the others point against the gradient. Apart from ties, it is
    below 0 only where something other than this step's score decided: ``J_ema``, or a step that did not count.

    Args:
        J: ``(..., K)`` float64, the raw scores.
        candidate: ``(...)`` int, the applied candidate.

    Returns:
        ``(...)`` float64; NaN where there is no other candidate, both scores are 0, or one is not finite.
    """
    scores, mine = J.reshape(-1, J.shape[-1]), np.asarray(candidate).reshape(-1)
    rows = np.arange(len(scores))
    others = scores.copy()
    others[rows, mine] = -np.inf
    with np.errstate(invalid="ignore", over="ignore"):
        applied, other = scores[rows, mine], others.max(axis=-1)
        return ((applied - other) / (np.abs(applied) + np.abs(other))).reshape(J.shape[:-1])
