"""A run in numbers: what each kind of parameter chose, how clearly, and how steadily."""

from dataclasses import dataclass

import numpy as np

from ..choices import Choices
from .candidates import all_candidates, candidate_indices, display_names, values_of
from .names import roles


@dataclass
class Row:
    """The numbers of some parameters of a run, over all its steps.

    Attributes:
        name: what the parameters are.
        parameters: how many there are.
        shares: the share of each candidate in their choices, in the order of ``all_candidates(choices)``.
        mean: the mean of the chosen candidates; NaN if a candidate has no value.
        changed: the share of choices that differ from the step before; NaN for a single step.
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
    chosen = candidate_indices(choices, candidates)
    values = values_of(candidates)
    reset = np.bincount([parameter for _, parameter in choices.resets], minlength=chosen.shape[1])

    def row(name: str, columns: np.ndarray) -> Row:
        mine, margins = chosen[:, columns], choices.margins[:, columns]
        return Row(
            name=name,
            parameters=len(columns),
            shares=[float((mine == k).mean()) for k in range(len(candidates))],
            mean=float("nan") if values is None else float(values[mine].mean()),
            changed=float((mine[1:] != mine[:-1]).mean()) if len(mine) > 1 else float("nan"),
            margin=float("nan") if np.isnan(margins).all() else float(np.nanmedian(margins)),
            resets=int(reset[columns].sum()),
        )

    kinds: dict[str, list[int]] = {}
    for i, role in enumerate(roles(choices.parameters)):
        kinds.setdefault(role, []).append(i)
    rows = [row("all parameters", np.arange(chosen.shape[1]))]
    if 1 < len(kinds) < chosen.shape[1]:
        rows += [row(kind, np.array(columns)) for kind, columns in kinds.items()]
    return rows


def shares(choices: Choices) -> dict[str, float]:
    """Return each candidate's share of all choices, like ``{"beta1 = 0.8": 0.75, "beta1 = 0.99": 0.25}``."""
    names = display_names(choices, all_candidates(choices))
    return dict(zip(names, summarise(choices)[0].shares, strict=True))
