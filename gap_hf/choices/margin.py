"""How clearly a choice was made."""

import numpy as np
from numpy.typing import ArrayLike


def margin(J: np.ndarray, candidate: ArrayLike) -> np.ndarray:
    """How clearly the applied candidate's score is ahead of the best of the others: ``(J - J') / (|J| + |J'|)``.

    Between -1 and 1: 0 is a draw, 1 says that the others point against the gradient. Below 0 (but for ties) only where
    something else than this step's score decided: ``J_ema``, or a step that did not count.

    Args:
        J: ``(..., K)`` float64, the raw scores.
        candidate: ``(...)`` int, the applied one.

    Returns:
        ``(...)`` float64; NaN where there is no other candidate, all of both are 0, or one is not finite.
    """
    scores, mine = J.reshape(-1, J.shape[-1]), np.asarray(candidate).reshape(-1)
    rows = np.arange(len(scores))
    others = scores.copy()
    others[rows, mine] = -np.inf
    with np.errstate(invalid="ignore", over="ignore"):
        applied, other = scores[rows, mine], others.max(axis=-1)
        return ((applied - other) / (np.abs(applied) + np.abs(other))).reshape(J.shape[:-1])
