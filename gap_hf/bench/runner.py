"""The benchmark's runs: in this process, or in several, one after the other."""

import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .clock import Copier, Entrant, race, timed
from .contenders import BASELINE, Contender, select, start
from .counts import count, state_bytes
from .errors import BenchError
from .machine import describe, find_device, find_dtype, usable_memory
from .plan import plan
from .progress import Progress
from .result import Result, Row, merge, to_median
from .workloads import Workload, find_workload, regular

FEWEST, MOST = 5, 50
"""The bounds on the number of rounds, if it is not given."""

GROWTH_ONLY = ("gap-fused",)
"""The contenders of ``--growth``, if none are given."""


@dataclass(frozen=True)
class Options:
    """The options of a benchmark.

    Attributes:
        workloads: the workloads' names.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        dtype: the dtype of parameters and gradients.
        candidates: K.
        rounds: how often each contender is timed; None for as often as takes about ``seconds``.
        only: the contenders' names, or beginnings of names; empty for all.
        cold: whether the caches are emptied before every step.
        growth: measure how the ratio grows instead.
        repeats: how many fresh processes to measure in; 1 measures in this one.
        seconds: about how long to measure each workload if ``rounds`` is None.
        copy_bytes: size of the copy that empties the caches; None for 64 MiB on a CPU and 256 MiB on a GPU.
        threads: torch's number of threads; None leaves it as it is.
        before: a checkout of another version of gap_hf, which is measured, too; None for none.
    """

    workloads: tuple[str, ...] = ("vit", "llama")
    device: str = "cpu"
    dtype: str = "float32"
    candidates: int = 2
    rounds: int | None = None
    only: tuple[str, ...] = ()
    cold: bool = True
    growth: bool = False
    repeats: int = 1
    seconds: float = 60.0
    copy_bytes: int | None = None
    threads: int | None = None
    before: str | None = None

    @property
    def checkout(self) -> Path | None:
        """``before`` as a path."""
        return None if self.before is None else Path(self.before)


@dataclass(frozen=True)
class Case:
    """What one table, or one line of a growth table, is measured on.

    Attributes:
        workload: the tensors.
        candidates: K.
        question: what is varied.
        answer_to: its value in this case.
    """

    workload: Workload
    candidates: int
    question: str = ""
    answer_to: str = ""


def run(options: Options, progress: Progress | None = None) -> list[Result]:
    """Measure what the options ask for.

    Raises:
        BenchError: something that the options ask for does not exist or does not fit.
    """
    progress = progress or Progress()
    cases = plan_cases(options)
    check(options)
    if options.repeats > 1:
        return run_processes(options, progress)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return [run_case(case, options, progress) for case in cases]


def check(options: Options) -> None:
    """Raise BenchError unless everything that the options ask for exists."""
    find_device(options.device)
    find_dtype(options.dtype)
    select(list(options.only), options.checkout)
    for name in ("candidates", "rounds", "repeats"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise BenchError(f"--{name} {value} is out of range; expected 1 or more")


def plan_cases(options: Options) -> list[Case]:
    """List the cases to be measured."""
    workloads = [find_workload(name) for name in options.workloads]
    if not options.growth:
        return [Case(workload, options.candidates) for workload in workloads]
    K, million = options.candidates, 1 << 20
    return [
        *[Case(w, k, f"candidates, on {w.name} ({w.about})", f"K = {k}") for w in workloads for k in (1, 2, 3, 5)],
        *[
            Case(regular(n, 4 * million // n), K, f"tensors, of {4 * million:,} elements together", f"{n:,}")
            for n in (1, 8, 64, 512, 4096)
        ],
        *[
            Case(regular(64, n), K, "elements, of each of 64 tensors", f"{n:,}")
            for n in (1 << 10, 1 << 13, 1 << 16, 1 << 19)
        ],
    ]


# ---------------------------------------------------------------- one process
def run_case(case: Case, options: Options, progress: Progress) -> Result:
    """Measure all contenders on one workload."""
    device, dtype, workload = find_device(options.device), find_dtype(options.dtype), case.workload
    chosen, absent = [], {}
    wanted = list(options.only or (GROWTH_ONLY if options.growth else ()))
    for contender in select(wanted, options.checkout):
        if why := contender.absence(device):
            absent[contender.name] = why
        else:
            chosen.append(contender)
    copy_bytes = options.copy_bytes or (256 << 20 if device.type == "cuda" else 64 << 20)
    tensor_bytes = 2 * workload.elements * dtype.itemsize
    progress.begin(f"{workload.name}: planning", None)
    fixed = tensor_bytes + 2 * copy_bytes
    batches, without_room = plan(chosen, workload, case.candidates, device, dtype, usable_memory(device), fixed)
    absent |= without_room
    params, copier = workload.tensors(device, dtype), Copier(copy_bytes, device)
    rows: list[Row] = []
    for batch in batches:
        rows += run_batch(batch, case, params, copier, options, absent, progress)
        gc.collect()  # optimizers in reference cycles would keep their state while the next ones make theirs
    rows = together(rows)
    if len(rows) == 1 and absent:
        raise BenchError("there is nobody to compare: " + "; ".join(f"{name}: {why}" for name, why in absent.items()))
    return Result(
        workload=workload.name,
        about=workload.about,
        tensors=len(params),
        elements=workload.elements,
        dtype=options.dtype,
        device=device.type,
        candidates=case.candidates,
        machine=describe(device),
        rows=rows,
        absent=absent,
        bytes_moved=int(rows[0].moved or 0),
        copy_seconds=copier.seconds,
        copy_bytes=copier.nbytes,
        question=case.question,
        answer_to=case.answer_to,
    )


def run_batch(
    batch: list[Contender],
    case: Case,
    params: list[Tensor],
    copier: Copier,
    options: Options,
    absent: dict[str, str],
    progress: Progress,
) -> list[Row]:
    """Time and count the contenders of one batch; those that can't be run are added to ``absent``."""
    progress.begin(f"{case.workload.name}: first steps", len(batch))
    entrants, round_seconds = [], 0.0
    for contender in batch:
        optimizer = start(contender, params, case.candidates)
        progress.advance(1)
        if isinstance(optimizer, str):
            absent[contender.name] = optimizer
            continue
        entrants.append(Entrant(contender, optimizer))
        round_seconds += timed(optimizer.step, copier.device)  # the second step, the last one before the race
    if BASELINE in absent:
        raise BenchError(f"the baseline, {BASELINE}, can't be run: {absent[BASELINE]}")
    if not entrants:
        return []
    seconds = options.seconds / 4 if options.growth else options.seconds
    rounds = options.rounds or int(min(max(seconds / round_seconds, FEWEST), MOST))
    progress.begin(f"{case.workload.name}: {rounds} rounds of {len(entrants)}", rounds * len(entrants))
    race(entrants, rounds, copier, options.cold, progress.advance)
    progress.begin(f"{case.workload.name}: counting", len(entrants))
    rows = []
    for entrant in entrants:
        state, traffic, elements = state_bytes(entrant.optimizer), entrant.contender.traffic, case.workload.elements
        row = Row(entrant.contender.name, entrant.seconds, [], state)
        if traffic is not None:  # of whole bytes per element: counts of steps are kept per parameter
            itemsize = params[0].element_size()
            row.moved = elements * traffic(state // elements, case.candidates, itemsize)
        if not case.question:
            row.counts = count(entrant.optimizer.step, copier.device, entrant.contender.compiled)._asdict()
        rows.append(row)
        progress.advance(1)
    if rows[0].name == BASELINE:  # the others' ratios are to its steps in the same rounds
        for row in rows[1:]:
            row.ratios = divided(row.seconds, rows[0].seconds)
    return rows


def together(rows: list[Row]) -> list[Row]:
    """Join the batches' rows: the baseline once, and ratios to its median for batches without it."""
    baselines = [row for row in rows if row.name == BASELINE]
    seconds = [s for row in baselines for s in row.seconds]
    baseline = replace(baselines[0], seconds=seconds, ratios=to_median(seconds))
    others = [row for row in rows if row.name != BASELINE]
    for row in others:
        row.ratios = row.ratios or [s / float(np.median(seconds)) for s in row.seconds]
    return [baseline, *others]


def divided(seconds: Sequence[float], others: Sequence[float]) -> list[float]:
    """Divide times by others, round by round."""
    return [mine / theirs for mine, theirs in zip(seconds, others, strict=True)]


# ---------------------------------------------------------------- several processes
def run_processes(options: Options, progress: Progress) -> list[Result]:
    """Measure in several fresh processes.

    Times depend on where tensors lie in memory, and that differs from process to process.
    """
    progress.begin(f"{options.repeats} processes", options.repeats)
    runs = []
    for _ in range(options.repeats):
        runs.append(run_process(replace(options, repeats=1, threads=torch.get_num_threads())))
        progress.advance(1)
    return [merge(list(results)) for results in zip(*runs, strict=True)]


def run_process(options: Options) -> list[Result]:
    """Measure in one fresh process."""
    command = [sys.executable, "-m", "gap_hf.bench", json.dumps(asdict(options))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BenchError(f"a process of the benchmark failed with status {done.returncode}: {last}")
    return [Result.from_json(fields) for fields in json.loads(done.stdout.splitlines()[-1])]


def options_from(text: str) -> Options:
    """Read the options that ``run_process`` has put on the command line."""
    fields: dict[str, Any] = json.loads(text)
    return Options(**{**fields, "workloads": tuple(fields["workloads"]), "only": tuple(fields["only"])})
