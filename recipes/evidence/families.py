"""The package's other optimizers beside AdamW, each at learning rates of its own, on real pretrained models.

    PYTHONPATH=recipes python -m evidence.families --studies real_vision real_lm --seeds 0-2
    PYTHONPATH=recipes python -m evidence.families --report          # the table, from what has been run

The studies, files and grids are those of ``evidence.real``. Every optimizer has its authors' defaults; only the
learning rate is searched, in powers of 2, until the best one is inside the grid.
"""

import argparse
import sys
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from scipy.stats import t as student

from .plan import best, exponent
from .real import REAL_STUDIES, RealStudy, Way, Ways, main
from .table import RESULTS, Row, read

OTHERS = RESULTS.parent / "families"
REFERENCE = "adamw"


def contenders(study: RealStudy) -> dict[str, Way]:
    """AdamW and the others."""
    unclipped = "--weight_decay 0 --max_grad_norm 0"
    return {
        REFERENCE: Way("adamw_torch_fused", "", (0.9,)),
        "adams": Way("adams", "", (0.9,), flags="--weight_decay 0.1"),
        "adaiw": Way("adaiw", "", (0.9,), (-3, -2, -1, 0)),
        "rf_adamw": Way("rf_adamw", "", (0.9,), (-7, -6, -5, -4), unclipped),
        "rf_rmsprop": Way("rf_rmsprop", "", (0.9,), (-10, -9, -8, -7), unclipped),
        # long axes have diagonal factors: dense ones would have hundreds of times LoRA's elements
        "if_shampoo": Way("if_shampoo", "max_axis=256", (0.9,), (-6, -5, -4, -3), unclipped),
    }


def report(results: Path, among: Ways = contenders, reference: str = REFERENCE) -> Iterator[str]:
    """The lines of a Markdown table for each study: the loss at the best learning rate, and its difference.

    That is to the loss of ``reference``; the intervals are Student's, of the differences paired by seed. Where there
    are several candidates, their shares or mean weights are told, too.
    """
    for name, study in REAL_STUDIES.items():
        known = list(read(name, results).values())
        seeds = sorted({row.seed for row in known if row.contender == reference})
        if not seeds:
            continue
        chosen = any(len(row.shares) > 1 for row in known)
        yield f"{study.title}, {len(seeds)} seeds; {study.flags}"
        against = {REFERENCE: "AdamW"}.get(reference, reference)
        yield f"| optimizer | best learning rate | others tried | loss | against {against} |" + " applied |" * chosen
        yield "|---|---|---|---|---|" + "---|" * chosen
        other = at_best([row for row in known if row.contender == reference], seeds)
        for contender in among(study):
            own = [row for row in known if row.contender == contender]
            if found := at_best(own, seeds):
                k = exponent(found[0].lr)
                tried = ", ".join(f"2^{k}" for k in sorted({exponent(row.lr) for row in own} - {k}))
                losses = [row.counted for row in found]
                apart = [mine - row.counted for mine, row in zip(losses, other, strict=True)]
                difference = "" if contender == reference else f"{fmean(apart):+.3f}{interval(apart)}"
                columns = list(zip(*(row.shares for row in found), strict=True))
                shares = " ".join(f"{fmean(column):.2f}" for column in columns) if len(columns) > 1 else ""
                line = f"| `{contender}` | 2^{k} | {tried} | {fmean(losses):.3f} | {difference} |"
                yield line + f" {shares} |" * chosen
        yield ""


def at_best(rows: list[Row], seeds: list[int]) -> list[Row]:
    """The rows at the learning rate with the lowest mean loss, seed by seed."""
    k = best(rows, seeds)
    return sorted((row for row in rows if exponent(row.lr) == k and row.seed in seeds), key=lambda row: row.seed)


def interval(apart: list[float]) -> str:
    """Half of the 95 % interval of the mean."""
    n = len(apart)
    return f" ± {student.ppf(0.975, n - 1) * stdev(apart) / sqrt(n):.3f}" if n > 1 else ""


if __name__ == "__main__":
    if "--report" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--report", action="store_true")
        parser.add_argument("--results", type=Path, default=OTHERS)
        print("\n".join(report(parser.parse_args().results)))
    else:
        main(contenders, __doc__, OTHERS)
