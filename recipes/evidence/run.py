"""Run what is missing: each study with each contender, seed and learning rate.

    PYTHONPATH=recipes python -m evidence.run                       # everything
    PYTHONPATH=recipes python -m evidence.run --quick               # ten minutes
    PYTHONPATH=recipes python -m evidence.run --studies cnn --contenders qhm --seeds 8-19

What the files in docs/evidence/results have is not run again. A killed run loses only the batch that was under way.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from . import correlations
from .contenders import CONTENDERS, REFERENCE, takes_part
from .plan import missing
from .studies import STUDIES
from .table import RESULTS, add, read
from .train import train

QUICK = {
    "studies": "mlp_b32 mlp_b256 cnn lm_300 lora autoencoder quadratic",
    "contenders": "fixed_* qhm mix_.5_.9_.99 pw_.5_.99 switch_.5_.9_.99",
    "seeds": "0-3",
}


class Job(NamedTuple):
    """A contender on a study."""

    contender: str
    study: str


def jobs(studies: Sequence[str], contenders: Sequence[str]) -> list[Job]:
    """All jobs, the most informative first; 0.9 comes first of all, since the others are run at its learning rate."""
    names = [name for name in CONTENDERS if any(fnmatch(name, pattern) for pattern in contenders) or name == REFERENCE]
    names.sort(key=lambda name: CONTENDERS[name].tier)
    return [Job(name, study) for name in names for study in studies if takes_part(name, study, STUDIES[study].family)]


def batches(seeds: list[int], lrs: list[float], together: int) -> Iterator[tuple[list[int], list[float]]]:
    """Cut a rectangle of runs into pieces that fit the caches; all learning rates of a seed share its data."""
    some = max(1, together // len(lrs))
    for k in range(0, len(seeds), some):
        yield seeds[k : k + some], lrs


class Meter:
    """Shows how far it is: a bar on a terminal, else a line for each job that had something to run.

    Jobs are weighed by the seconds that a study's runs take.
    """

    def __init__(self, left: dict[Job, float]) -> None:
        self.left, self.runs, self.worked, self.begun = dict(left), 0, 0.0, time.monotonic()
        console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(elapsed_when_finished=True))
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.bar = self.progress.add_task("evidence", total=sum(left.values()))

    def ran(self, job: Job, runs: int) -> None:
        """Count a batch."""
        cost = STUDIES[job.study].cost * runs
        self.runs, self.worked, self.left[job] = self.runs + runs, self.worked + cost, max(0.0, self.left[job] - cost)
        total = self.worked + sum(self.left.values())
        description = f"{job.study}: {job.contender}"
        self.progress.update(self.bar, completed=self.worked, total=total, description=description)

    def finished(self, job: Job) -> None:
        """Say so, where there is no bar."""
        self.left[job] = 0.0
        if self.progress.disable:
            passed = time.monotonic() - self.begun
            rest = passed * sum(self.left.values()) / self.worked
            print(f"{passed:6.0f} s, {rest:6.0f} s left, {self.runs} runs: {job.study}, {job.contender}", flush=True)


def run(studies: Sequence[str], contenders: Sequence[str], seeds: Sequence[int], results: Path = RESULTS) -> int:
    """Run what is missing; return how many runs that were."""
    todo = jobs(studies, contenders)
    meter = Meter({job: expected(job, seeds, results) * STUDIES[job.study].cost for job in todo})
    with meter.progress:
        for job in todo:
            before = meter.runs
            while rectangles := missing(job.study, job.contender, read(job.study, results), seeds):
                for rectangle in rectangles:
                    for some, lrs in batches(*rectangle, STUDIES[job.study].together):
                        rows = train(job.study, job.contender, some, lrs)
                        add(job.study, rows, results)
                        meter.ran(job, len(rows))
            if job.contender in correlations.CONTENDERS:
                correlations.measure(job.study, job.contender, seeds, results)
            if meter.runs > before:
                meter.finished(job)
    return meter.runs


def expected(job: Job, seeds: Sequence[int], results: Path) -> float:
    """About how many runs a job still has: those known to be missing, and a grid's usual growth if it is new."""
    known = read(job.study, results)
    lacking = sum(len(some) * len(lrs) for some, lrs in missing(job.study, job.contender, known, seeds))
    new = not any(contender == job.contender for contender, *_ in known)
    return lacking + (1.0 * len(seeds) if new else 0.0)


def numbers(text: str) -> list[int]:
    """Seeds like 0-7 or 3."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", help=f"of {', '.join(STUDIES)}")
    parser.add_argument("--contenders", nargs="+", help="names or patterns; 0.9 is always run")
    parser.add_argument("--seeds", type=numbers, help="like 0-7")
    parser.add_argument("--quick", action="store_true", help="a subset, ten minutes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the directory of the files")
    args = parser.parse_args()
    studies = args.studies or (QUICK["studies"].split() if args.quick else list(STUDIES))
    contenders = args.contenders or (QUICK["contenders"].split() if args.quick else ["*"])
    seeds = args.seeds or numbers(QUICK["seeds"] if args.quick else "0-7")
    if unknown := [name for name in studies if name not in STUDIES]:
        parser.error(f"no such study: {', '.join(unknown)}")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)  # tiny second moments would take a hundred times as long
    total = run(studies, contenders, seeds, args.results)
    print(f"{total} runs were missing; the results are in {args.results}")


if __name__ == "__main__":
    main()
