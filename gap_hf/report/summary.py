"""A run in numbers: what was chosen by which kind of parameter, how clearly, how steadily."""

from dataclasses import dataclass

import numpy as np

from ..choices import Choices
from .candidates import all_candidates, candidate_indices, display_names, values_of
from .names import roles


@dataclass
class Row:
    """Some parameters of a run, over all its steps.

    Attributes:
        name: what they are.
        parameters: how many.
        shares: of each candidate in their choices, in the order of ``all_candidates(choices)``.
        mean: of the chosen candidates; NaN if a candidate has no value.
        changed: the share of choices that differ from the step before; NaN for a single step.
        margin: the median, NaN where it is not known.
        resets: soft resets, counted per parameter.
    """

    name: str
    parameters: int
    shares: list[float]
    mean: float
    changed: float
    margin: float
    resets: int


def summarise(choices: Choices) -> list[Row]:
    """All parameters, then (if they choose by themselves and there is more than one kind) each kind of them."""
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
    """Each candidate's share of all choices, like ``{"beta1 = 0.8": 0.75, "beta1 = 0.99": 0.25}``."""
    names = display_names(choices, all_candidates(choices))
    return dict(zip(names, summarise(choices)[0].shares, strict=True))
