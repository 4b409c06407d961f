"""Whole optimizers: each alone at a learning rate of its own, then picked from and mixed, on a real pretrained model.

    PYTHONPATH=recipes python -m evidence.over                      # two hours on one core
    PYTHONPATH=recipes python -m evidence.over --report             # the table, from what has been run

The study is ``quickstart.py``; files and grids are those of ``evidence.real``. The candidates are run alone first;
``lr_scale`` then brings each to the learning rate that was best for it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from .families import report
from .plan import best, mean_losses
from .real import REAL_STUDIES, RealStudy, Way, main
from .scores import scaled
from .table import RESULTS, Row, read

OVER = RESULTS.parent / "over"
STUDY = "real_lm"
SEEDS = range(5)
ALONE = {
    "adamw": (-11, -10, -9, -8),
    "lion": (-14, -13, -12, -11),
    "adabelief": (-11, -10, -9, -8),
    "ademamix": (-12, -11, -10, -9),
}
"""The candidates, and the learning rates that are tried first, as powers of 2."""
TOGETHER = {
    "picked": "type=switch,score=next",
    "picked for each parameter": "type=switch_parameter_wise,score=next",
    "mixed equally": "type=mix",
    "drawn at random": "type=random",
}
"""What is tried with all of them."""


def contenders(study: RealStudy, results: Path = OVER) -> dict[str, Way]:
    """Each candidate alone and, once all have been run, what is tried with all of them."""
    found = {name: Way("gap_over", f"candidates={name},type=default", (), lrs) for name, lrs in ALONE.items()}
    known = list(read(STUDY, results).values())
    finished = study is REAL_STUDIES[STUDY] and all(is_inside(known, name) for name in ALONE)
    if finished and (candidates := scaled(known, SEEDS, list(ALONE))):
        first = best([row for row in known if row.contender == next(iter(ALONE))], SEEDS)
        assert first is not None
        for name, options in TOGETHER.items():
            text = f"candidates={candidates},{options}"
            found[name] = Way("gap_over", text, tuple(ALONE), (first - 1, first, first + 1))
    return found


def is_inside(known: Sequence[Row], name: str) -> bool:
    """Whether a contender's best learning rate is inside of those that all seeds were run with."""
    own = [row for row in known if row.contender == name]
    run, found = mean_losses(own, SEEDS).keys(), best(own, SEEDS)
    return found is not None and min(run) < found < max(run)


if __name__ == "__main__":
    if "--report" in sys.argv:
        print("\n".join([*report(OVER, contenders), *report(OVER, contenders, "drawn at random")]))
    else:
        main(contenders, __doc__, OVER, [STUDY])
