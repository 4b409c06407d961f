"""Finished sweeps of made-up losses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from gap_hf.report.run import Run
from gap_hf.sweep import Outcome
from gap_hf.sweep.contenders import Contender, Role
from gap_hf.sweep.members import DONE, Member, directory_name

from .runs import write_log

ROLES = {
    "gap_adamw": Role.PICK,
    "gap_adamw_mix": Role.GAP,
    "random": Role.RANDOM,
    "first": Role.FIRST,
    "constant_mix": Role.CONSTANT,
}

Losses = Mapping[str, Sequence[float] | Mapping[float, Sequence[float]]]


def finished(directory: Path, losses: Losses, smallest: float = 0.8) -> tuple[list[Member], list[Run]]:
    """Write the runs of a sweep.

    Args:
        directory: where they go.
        losses: evaluation losses in the order of the seeds, by the contender's name; and by learning rate, if the sweep
            went over several.
        smallest: the fixed value that is the pick's smallest candidate.
    """
    members, runs = [], []
    for name, by_rate in losses.items():
        value = float(name.partition("=")[2]) if "=" in name else None
        role = ROLES.get(name) or (Role.SMALLEST if value == smallest else Role.FIXED)
        contender = Contender(name, role, None, value)
        for lr, found in by_rate.items() if isinstance(by_rate, Mapping) else [(None, by_rate)]:
            for seed, loss in enumerate(found):
                where = directory / directory_name(name, lr, seed)
                write_log(where, [loss + 1.0], {5: loss})
                (where / DONE).write_text(json.dumps({"command": [], "seconds": 2.0}))
                members.append(Member(contender, lr, seed, where, [], "beta1"))
                log = json.loads((where / "trainer_state.json").read_text())["log_history"]
                runs.append(Run(where.name, where, None, log, 5))
    return members, runs


def outcome(directory: Path, losses: Losses, smallest: float = 0.8) -> Outcome:
    """What such a sweep found out."""
    return Outcome(*finished(directory, losses, smallest))


def around(mean: float, spread: float = 0.1, wobble: float = 0.001) -> list[float]:
    """Losses of four seeds, which the seeds shift alike, and which differ a little beyond that."""
    shifts = (-spread, spread, -spread / 2, spread / 2)
    return [mean + shift + side * wobble for shift, side in zip(shifts, (1, 1, -1, -1), strict=True)]
