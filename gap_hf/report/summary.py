"""A run in numbers: what was applied to each kind of parameter, how clearly it won, and how steadily."""

from dataclasses import dataclass

import numpy as np

from ..choices import Choices
from .candidates import all_candidates, applied, display_names, values_of
from .names import roles


@dataclass
class Row:
    """The numbers of some parameters of a run, over all its steps.

    Attributes:
        name: what the parameters are.
        parameters: how many there are.
        shares: the share of each candidate in their choices, or its mean weight in a mix, in the order of
            ``all_candidates(choices)``.
        mean: the mean of the applied candidates; NaN if a candidate has no value.
        changed: the share of choices that differ from the step before, in a mix of the candidate with the largest
            weight; NaN for a single step.
        margin: the median margin; NaN if it is not known.
        resets: the number of soft resets, counted per parameter.
    """

    name: str
    parameters: int
    shares: list[float]
    mean: float
    changed: float
    margin: float
    resets: int


def summarise(choices: Choices) -> list[Row]:
    """Sum up all parameters, then (if they choose separately and are of several kinds) each kind of them."""
    candidates = all_candidates(choices)
    values = values_of(candidates)
    shares = np.array([one.mean(axis=0, dtype=np.float64) for one in applied(choices, candidates)])
    changed = choices.choices[1:] != choices.choices[:-1]
    reset = np.bincount([parameter for _, parameter in choices.resets], minlength=shares.shape[1])

    def row(name: str, columns: np.ndarray) -> Row:
        mine, margins = shares[:, columns].mean(axis=1), choices.margins[:, columns]
        return Row(
            name=name,
            parameters=len(columns),
            shares=mine.tolist(),
            mean=float("nan") if values is None else float(values @ mine),
            changed=float(changed[:, columns].mean()) if len(changed) else float("nan"),
            margin=float("nan") if np.isnan(margins).all() else float(np.nanmedian(margins)),
            resets=int(reset[columns].sum()),
        )

    kinds: dict[str, list[int]] = {}
    for i, role in enumerate(roles(choices.parameters)):
        kinds.setdefault(role, []).append(i)
    rows = [row("all parameters", np.arange(shares.shape[1]))]
    if 1 < len(kinds) < shares.shape[1]:
        rows += [row(kind, np.array(columns)) for kind, columns in kinds.items()]
    return rows


def shares(choices: Choices) -> dict[str, float]:
    """Return each candidate's share of all choices, or its mean weight: ``{"beta1 = 0.8": 0.75, ...}``."""
    names = display_names(choices, all_candidates(choices))
    return dict(zip(names, summarise(choices)[0].shares, strict=True))
