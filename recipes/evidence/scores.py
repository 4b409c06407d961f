"""Which score chooses best among whole optimizers: small studies of ``GapOver``, its scores, mixes and controls.

    PYTHONPATH=recipes python -m evidence.scores                 # an hour on one core
    PYTHONPATH=recipes python -m evidence.scores --report        # the table, from what has been run

Each candidate is first run alone; ``lr_scale`` then brings each to the learning rate that was best for it. The studies
are those of ``evidence.studies``, and the files are resumed in the same way.
"""

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.progress import Progress

from gap_hf import GapOver

from .families import at_best, interval
from .plan import best, exponent, grown
from .run import numbers
from .studies import STUDIES, task
from .table import RESULTS, Row, add, read, written
from .train import generator

SCORES_RESULTS = RESULTS.parent / "scores"
STUDIED = ("mlp_b32", "lm_300", "regression", "quadratic")
ALONE = {"adamw": 0, "sgd": 3, "lion": -3}
"""The candidates, and the powers of 2 between their learning rates and AdamW's where the search begins."""
WAYS: dict[str, dict[str, Any]] = {
    **{f"pick_{score}_{kind}": {"score": score, "type": type_}
       for score in ("rms", "decrease", "gap", "next")
       for kind, type_ in (("all", "switch"), ("each", "switch_parameter_wise"))},
    **{f"mix_{score}": {"score": score, "type": "mix", "weights": "score"} for score in ("decrease", "gap", "next")},
    "next_smooth": {"score": "next", "type": "switch", "J_ema": 0.9},
    "mix_equal": {"type": "mix"},
    "random_all": {"type": "random"},
    "random_each": {"type": "random_parameter_wise"},
}  # fmt: skip
"""What is tried with all candidates: options of ``GapOver``."""


def scaled(known: Sequence[Row], seeds: Sequence[int], names: Sequence[str]) -> str | None:
    """Return the candidates with ``lr_scale``, so that each runs at its own best learning rate when the first one does.

    None unless all have been run alone.
    """
    tuned = [best([row for row in known if row.contender == name], seeds) for name in names]
    found = [k for k in tuned if k is not None]
    if len(found) < len(names):
        return None
    return ":".join(
        name if k == found[0] else f"{name}/lr_scale/{2.0 ** (k - found[0])}"
        for name, k in zip(names, found, strict=True)
    )


def train(study: str, contender: str, seed: int, lr: float, candidates: str, options: dict[str, Any]) -> Row:
    """Train once."""
    about, model = STUDIES[study], task(study)
    weights = [w[None].clone().requires_grad_() for w in model.start(generator(seed, 0))]
    drawn = model.draw(generator(seed, 1), about.steps)[None]
    optimizer = GapOver(weights, candidates, lr=lr, seed=seed, **options)  # a decay would grow with the rate
    (group,), K = optimizer.param_groups, candidates.count(":") + 1
    with torch.no_grad():
        start = float(model.evaluate(weights))
    losses, applied = [], torch.zeros(K)
    for t in range(about.steps):
        group["lr"] = lr * ((1 - t / about.steps) if about.linear else 1.0)
        optimizer.zero_grad()
        loss = model.losses(weights, model.batch(drawn[:, t])).sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        chosen = torch.tensor(group["last_choice"]).flatten()
        applied += torch.bincount(chosen, minlength=K) / len(chosen)
    with torch.no_grad():
        final = float(model.evaluate(weights))
    late, shares = fmean(losses[-max(1, about.steps // 10) :]), (applied / len(losses)).tolist()
    return Row(study, contender, seed, lr, final, late, start, not final < start, shares, shares)


def jobs(study: str, seeds: Sequence[int], results: Path) -> Iterator[tuple[str, int, int, str, dict[str, Any]]]:
    """Contender, seed, learning rate, candidates and options of what is missing; first what later runs depend on."""
    known = read(study, results)

    def lacking(contender: str, middle: int, width: int, candidates: str, options: dict[str, Any]) -> Iterator[Any]:
        own = [row for row in known.values() if row.contender == contender]
        first = {*range(middle - width, middle + width + 1), *(exponent(row.lr) for row in own)}
        for k in grown(first, own, seeds):
            for seed in seeds:
                if (contender, seed, written(2.0**k)) not in known:
                    yield contender, seed, k, candidates, options

    alone = [
        job
        for name, shift in ALONE.items()
        for job in lacking(name, STUDIES[study].lr + shift, 1, name, {"type": "default"})
    ]
    yield from alone
    rows = list(known.values())
    if not alone and (candidates := scaled(rows, seeds, list(ALONE))):
        middle = best([row for row in rows if row.contender == next(iter(ALONE))], seeds)
        assert middle is not None
        for name, options in WAYS.items():
            yield from lacking(name, middle, 1, candidates, options)


def run(studies: Sequence[str], seeds: Sequence[int], results: Path) -> None:
    """Run what is missing."""
    with Progress() as progress:
        for study in studies:
            bar, done = progress.add_task(study), 0
            while todo := list(jobs(study, seeds, results)):
                for contender, seed, k, candidates, options in todo:
                    add(study, [train(study, contender, seed, 2.0**k, candidates, options)], results)
                    done += 1
                    progress.update(bar, completed=done, total=len(todo) + done)


def report(results: Path, reference: str | None = None) -> Iterator[str]:
    """The lines of a Markdown table: the loss against that of ``reference``, each at its best learning rate.

    Without one it is that of the candidate that is best alone, and the shares of the candidates are told, too. The
    intervals are Student's, of the differences paired by seed.
    """
    studies = [
        study for study in STUDIED if {row.contender for row in read(study, results).values()} >= {*ALONE, *WAYS}
    ]
    yield f"| | {' | '.join(STUDIES[study].title for study in studies)} |"
    yield "|---" * (len(studies) + 1) + "|"
    for contender in (*ALONE, *WAYS):
        cells = []
        for study in studies:
            rows = list(read(study, results).values())
            seeds = sorted({row.seed for row in rows})
            own = {name: at_best([row for row in rows if row.contender == name], seeds) for name in (*ALONE, *WAYS)}
            alone = min(ALONE, key=lambda name: fmean(row.counted for row in own[name]))
            against = reference or alone
            apart = [mine.counted - other.counted for mine, other in zip(own[contender], own[against], strict=True)]
            shares = [fmean(column) for column in zip(*(row.shares for row in own[contender]), strict=True)]
            silent = reference or contender in (*ALONE, "mix_equal")
            told = "" if silent else f" ({' '.join(f'{share:.2f}' for share in shares)})"
            cells.append(
                ("best" if reference is None else "")
                if contender == against
                else f"{fmean(apart):+.3f}{interval(apart)}{told}"
            )
        yield f"| {contender} | {' | '.join(cells)} |"


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", default=list(STUDIED), choices=STUDIED)
    parser.add_argument("--seeds", type=numbers, default=list(range(5)), help="like 0-4")
    parser.add_argument("--results", type=Path, default=SCORES_RESULTS, help="the directory of the files")
    parser.add_argument("--report", action="store_true", help="print the table")
    args = parser.parse_args()
    if args.report:
        print("\n".join([*report(args.results), "", "against drawing at random for each parameter:", ""]))
        print("\n".join(report(args.results, "random_each")))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)  # tiny second moments would take a hundred times as long
    run(args.studies, args.seeds, args.results)


if __name__ == "__main__":
    main()
