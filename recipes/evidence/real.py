"""The same question on real pretrained models, through the recipes and Trainer: run what is missing.

    PYTHONPATH=recipes python -m evidence.real                                  # everything: a night and more
    PYTHONPATH=recipes python -m evidence.real --studies real_text --seeds 0-4

Each run is a process of a recipe with a command line, as a user would start it; but it is forked from a process that
has already loaded the libraries and the data, since loading takes as long as training. The files are those of the small
studies, and are resumed in the same way: a killed run loses only what was under way. Seed by seed, all contenders at
all learning rates are run, so that what there is can be compared at any time. Studies may run side by side, one command
for each.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .plan import exponent, grown
from .run import numbers
from .table import RESULTS, Row, add, read, written

LIMIT = 3600
"""Seconds that a run may take."""


class RealStudy(NamedTuple):
    """A recipe and its flags.

    Attributes:
        title: for tables.
        script: the recipe.
        flags: its flags; what they leave out is the recipe's own.
        lrs: the learning rates, as powers of 2.
        pick: the candidates that the paper's authors recommend for the task, which are chosen among for each parameter.
        rows: the function of offline.py that takes long to read the data, if there is one.
    """

    title: str
    script: str
    flags: str
    lrs: tuple[int, ...]
    pick: tuple[float, float]
    rows: str | None = None


REAL_STUDIES = {
    "real_text": RealStudy(
        "LoRA on MiniLM, text classes", "classify_text", "--max_length 32 --max_steps 60 --eval_rows 400",
        (-9, -8, -7, -6), (0.8, 0.99), "topics",
    ),
    "real_vision": RealStudy(
        "LoRA on DINOv2-small, digits", "vision_lora",
        "--max_steps 40 --per_device_train_batch_size 16 --eval_rows 300", (-11, -10, -9, -8), (0.5, 0.99),
    ),
    "real_lm": RealStudy(
        "LoRA on SmolLM2-135M", "quickstart",
        "--dtype bfloat16 --max_steps 30 --per_device_train_batch_size 4 --eval_rows 48 --max_length 64",
        (-11, -10, -9, -8), (0.8, 0.99), "docstrings",
    ),
}  # fmt: skip


class Way(NamedTuple):
    """A contender.

    Attributes:
        optim: the flag ``--optim``.
        optim_args: that flag.
        candidates: its candidates, by their names in the log.
        lrs: its first learning rates, as powers of 2, if they are not the study's.
        flags: other flags.
    """

    optim: str
    optim_args: str
    candidates: tuple[float | str, ...]
    lrs: tuple[int, ...] = ()
    flags: str = "--weight_decay 0"


Ways = Callable[[RealStudy], dict[str, Way]]
"""The contenders of a study by name."""


def ways(study: RealStudy) -> dict[str, Way]:
    """The contenders, under the names that they have in the small studies."""
    fixed = {
        f"fixed_{beta:g}": Way("gap_adamw", f"type=default,betas={beta:g}", (beta,)) for beta in (0.9, 0.5, 0.8, 0)
    }
    short, long = study.pick
    three = "betas=0.5:0.9:0.99"
    picked = f"pw_{written_beta(short)}_{written_beta(long)}"
    return {
        "fixed_0.9": fixed.pop("fixed_0.9"),
        "qhm": Way("gap_adamw_mix", "", (0.0, 0.9)),
        picked: Way("gap_adamw", f"betas={short:g}:{long:g}", study.pick),
        "mix_.5_.9_.99": Way("gap_adamw_mix", three, (0.5, 0.9, 0.99)),
        **fixed,
        "mix_score_pw_.5_.9_.99": Way(
            "gap_adamw", f"{three},type=mix_parameter_wise,weights=score", (0.5, 0.9, 0.99)
        ),
    }  # fmt: skip


def written_beta(beta: float) -> str:
    """A beta1 as in contenders' names: .5."""
    return f"{beta:g}".removeprefix("0")


class Job(NamedTuple):
    """A run."""

    study: str
    contender: str
    seed: int
    k: int


def jobs(studies: Sequence[str], seeds: Sequence[int], results: Path, among: Ways = ways) -> Iterator[Job]:
    """All runs that there are no rows of; the grid grows until each contender's best learning rate is inside."""
    for seed in seeds:
        for study in studies:
            known = read(study, results)
            for contender, way in among(REAL_STUDIES[study]).items():
                own = [row for row in known.values() if row.contender == contender]
                first = way.lrs or REAL_STUDIES[study].lrs
                for k in grown({*first, *(exponent(row.lr) for row in own)}, own, seeds):
                    if (contender, seed, written(2.0**k)) not in known:
                        yield Job(study, contender, seed, k)


def run(job: Job, among: Ways = ways) -> Row:
    """Start the recipe, and read what it left."""
    study = REAL_STUDIES[job.study]
    way = among(study)[job.contender]
    with output_of(study, way, job.seed, job.k) as folder:
        log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return row_of(job, way, log)


@contextmanager
def output_of(study: RealStudy, way: Way, seed: int, k: int) -> Iterator[Path]:
    """Run the recipe at the learning rate 2^k; its output directory is there as long as the context.

    Raises:
        SystemExit: it failed; its last lines say why.
    """
    with tempfile.TemporaryDirectory(prefix="gap_hf-evidence-") as scratch:
        flags = [*study.flags.split(), "--optim", way.optim, *way.flags.split(), "--learning_rate", str(2.0**k)]
        flags += ["--optim_args", way.optim_args] if way.optim_args else []
        flags += ["--seed", str(seed), "--output_dir", scratch, "--save_strategy", "no", "--disable_tqdm", "true"]
        output = Path(scratch) / "output.txt"
        process = multiprocessing.get_context("fork").Process(target=started, args=(study.script, flags, output))
        process.start()
        process.join(LIMIT)
        if process.exitcode != 0:
            process.kill()
            raise SystemExit(f"{study.script}.py {' '.join(flags)} failed:\n{output.read_text()[-2000:]}")
        yield Path(scratch)


def started(script: str, flags: Sequence[str], output: Path) -> None:
    """Run a recipe in this process; ``output`` gets what it prints."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.argv = [f"{script}.py", *flags]
        import_module(script).main()


def prepare(study: RealStudy) -> None:
    """Read what every run of a study would read anew. No tensor is computed: a fork doesn't inherit torch's threads."""
    import_module(study.script)
    if study.rows is not None:
        getattr(import_module("offline"), study.rows)()


def row_of(job: Job, way: Way, log: list[dict[str, Any]]) -> Row:
    """Make the row from Trainer's log."""
    evaluations = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    applied = [
        [next((v for key, v in entry.items() if key in keys(candidate)), 0.0) for candidate in way.candidates]
        for entry in log
        if any(key.startswith(("gap/share_", "gap/weight_")) for key in entry)
    ]
    means = [fmean(column) for column in zip(*applied, strict=True)] if applied else [1.0] * len(way.candidates)
    loss, start = evaluations[-1], evaluations[0]
    loss = loss if loss == loss else inf
    return Row(
        job.study, job.contender, job.seed, 2.0**job.k, loss, fmean(losses[-2:]), start, not loss < start, means, means
    )  # fmt: skip


def keys(candidate: float | str) -> tuple[str, str]:
    """The names under which a candidate's share or weight is logged."""
    name = candidate if isinstance(candidate, str) else f"{candidate:g}"
    return f"gap/share_{name}", f"gap/weight_{name}"


def main(
    among: Ways = ways,
    about: str | None = __doc__,
    default: Path = RESULTS,
    studies: Sequence[str] = tuple(REAL_STUDIES),
) -> None:
    """Read the command line and run.

    Args:
        among: the contenders.
        about: the command's description.
        default: the directory of the files, if none is given.
        studies: those that are run, if none are given.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", default=list(studies), choices=list(REAL_STUDIES))
    parser.add_argument("--seeds", type=numbers, default=list(range(5)), help="like 0-4")
    parser.add_argument("--results", type=Path, default=default, help="the directory of the files")
    args = parser.parse_args()
    todo, done = list(jobs(args.studies, args.seeds, args.results, among)), 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    for name in {job.study for job in todo}:
        prepare(REAL_STUDIES[name])
    # without a thread of its own: a process that is forked meanwhile might inherit its locks
    with Progress(*columns, TimeRemainingColumn(), auto_refresh=False) as progress:
        bar = progress.add_task("", total=len(todo))
        while todo:
            job = todo.pop(0)
            what = f"{job.study}, {job.contender}, seed {job.seed}, 2^{job.k}"
            progress.update(bar, description=what, refresh=True)
            add(job.study, [run(job, among)], args.results)
            done += 1
            todo = todo or list(jobs(args.studies, args.seeds, args.results, among))
            progress.update(bar, completed=done, total=done + len(todo))
    print(f"{done} runs were missing; the results are in {args.results}")


if __name__ == "__main__":
    main()
