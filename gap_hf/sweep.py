"""``gap-hf sweep``: a grid of fixed beta1 (or momentum) values beside GAP, which claims to make the grid unnecessary.

Every run uses the same training script with the same flags; only the optimizer differs. A fixed value runs with
``type=default``, which is torch's own optimizer, bit for bit.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .report.compare import LAST, without_empty_columns
from .report.run import STATE, Run, find_state, read_state
from .trainer.presets import PRESETS, options_of

DONE = "sweep_done.json"
LOG = "sweep.log"
OWN_FLAGS = ("--optim", "--optim_args", "--output_dir", "--seed")
Measured = tuple[float | None, float | None, float | None, float | None]


class SweepError(Exception):
    """The error of a sweep that can't go on; it says why in one line (with the end of a run's output)."""


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        name: the optimizer's name, the same for all seeds: ``gap_adamw`` or ``beta1=0.9``.
        seed: the run's seed.
        directory: the run's ``output_dir``.
        command: the command that starts it.
        candidate: the name of a candidate's value in its logs: ``beta1`` or ``momentum``.
    """

    name: str
    seed: int
    directory: Path
    command: list[str]
    candidate: str


def plan(
    script: Path,
    flags: Sequence[str],
    gap: str = "gap_adamw",
    gap_args: str | None = None,
    values: Sequence[float] | None = None,
    seeds: Sequence[int] = (42,),
    out: Path = Path("runs/sweep"),
    launch: Path | None = None,
) -> list[Member]:
    """List the runs of a sweep, GAP first.

    Args:
        script: a training script that takes ``TrainingArguments``' flags.
        flags: flags for every run.
        gap: an ``optim`` name of this package.
        gap_args: the ``optim_args`` for that name.
        values: the fixed values of beta1 (or the momentum); by default a usual grid.
        seeds: the seeds that every optimizer runs with.
        out: the directory that holds a directory per run.
        launch: an accelerate config file; without it each run is one process.

    Raises:
        SweepError: there is no such script, config file or optimizer, the optimizer refuses a value or ``gap_args``,
            or a flag is one that the sweep sets.
    """
    if not script.is_file():
        raise SweepError(f"{script}: there is no such script.")
    if launch is not None and not launch.is_file():
        raise SweepError(f"{launch}: there is no such accelerate config.")
    if gap not in PRESETS:
        raise SweepError(f"{gap!r} is not a gap optimizer; expected one of {', '.join(PRESETS)}")
    taken = [flag for flag in flags if flag.startswith("--") and name_of(flag) in OWN_FLAGS]
    if taken:
        raise SweepError(f"{taken[0]} is set by the sweep: see its own --gap, --gap-args, --out and --seed")
    family = PRESETS[gap].optimizer.family
    candidate, option = family.candidate_name, family.candidate_option
    if not values and not family.grid:
        raise SweepError(f"{gap!r} has no candidates, and so nothing to sweep")
    start = [sys.executable, "-m", "gap_hf", str(script)]
    if launch is not None:
        start[1:1] = ["-m", "accelerate.commands.launch", "--config_file", str(launch)]
    optimizers = {gap: gap_args}
    for value in values or family.grid:
        optimizers[f"{candidate}={value:.12g}"] = f"type=default,{option}={value:.12g}"
    members = []
    for name, optim_args in optimizers.items():
        check_options(name, gap, optim_args)
        for seed in seeds:
            directory = out / (name if len(seeds) == 1 else f"{name}-seed{seed}")
            own = ["--optim", gap, *(["--optim_args", optim_args] if optim_args else [])]
            command = [*start, *flags, *own, "--seed", str(seed), "--output_dir", str(directory)]
            members.append(Member(name, seed, directory, command, candidate))
    return members


def check_options(name: str, gap: str, optim_args: str | None) -> None:
    """Raise SweepError if the optimizer would refuse its options: now, rather than after other runs have trained."""
    try:
        PRESETS[gap].optimizer([torch.zeros(1)], **options_of(gap, optim_args))
    except (ValueError, ImportError) as error:
        raise SweepError(f"{name}: {error}") from error


def name_of(flag: str) -> str:
    """Return the name of a flag, ``--optim`` for ``--optim=x``; transformers takes ``-`` for ``_``, too."""
    return "--" + flag[2:].partition("=")[0].replace("-", "_")


def run(members: Sequence[Member], begun: Callable[[Member], None], ended: Callable[[Member, bool], None]) -> None:
    """Run the members of a sweep one after another; those that an earlier sweep has finished are kept.

    Args:
        members: the runs that ``plan`` returned.
        begun: called with each run that starts.
        ended: called with each run that is there, and whether it ran now.

    Raises:
        SweepError: a directory holds something else, or a run failed; the finished ones are kept.
    """
    for member in members:
        check(member)
    for member in members:
        begun(member)
        finished = (member.directory / DONE).is_file()
        if not finished:
            start(member)
        ended(member, not finished)


def check(member: Member) -> None:
    """Raise SweepError unless the directory is this run's: nothing that something else wrote is overwritten."""
    marker = member.directory / DONE
    if marker.is_file():
        if json.loads(marker.read_text(encoding="utf-8"))["command"] != member.command:
            raise SweepError(f"{member.directory} is of a sweep with other flags; name another --out, or remove it")
    elif (member.directory / STATE).is_file() and not (member.directory / LOG).is_file():
        raise SweepError(f"{member.directory} holds a run that is not of a sweep; name another --out")


def start(member: Member) -> None:
    """Start one run, with its output in ``sweep.log``, wait for it, and mark it as finished.

    Raises:
        SweepError: the run failed, or left no ``trainer_state.json``.
    """
    member.directory.mkdir(parents=True, exist_ok=True)
    log, began = member.directory / LOG, time.monotonic()
    with log.open("wb") as stream:
        done = subprocess.run(member.command, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-15:])
        raise SweepError(f"{member.name} failed with status {done.returncode}; the end of {log}:\n{tail}")
    state = find_state(member.directory)
    if state is None or not read_state(state)[0]:
        raise SweepError(f"{member.directory} has no {STATE}; the script must call trainer.save_state() at its end")
    seconds = time.monotonic() - began
    (member.directory / DONE).write_text(json.dumps({"command": member.command, "seconds": seconds}), encoding="utf-8")


def table(members: Sequence[Member], runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Return the titles of the columns and the rows of text, one per optimizer, with means over the seeds.

    The best fixed value is marked.

    Args:
        members: the runs that ``plan`` returned.
        runs: what each of them left.
    """
    head = ["", f"loss, last {LAST} logs", "evaluation loss", "against GAP", "mean applied", "seconds"]
    figures: dict[str, list[Measured]] = {}
    for member, run in zip(members, runs, strict=True):
        figures.setdefault(member.name, []).append(measure(member, run))
    names = list(figures)
    key = 1 if all(one[1] is not None for group in figures.values() for one in group) else 0
    means = {name: mean([one[key] for one in group]) for name, group in figures.items()}
    fixed = [name for name in names[1:] if means[name] is not None]
    best = min(fixed, key=lambda name: means[name] or 0.0, default=None)
    rows = []
    for name in names:
        group = figures[name]
        mine, gap = means[name], means[names[0]]
        rows.append(
            [
                name + (" (best fixed)" if name == best else ""),
                spread([one[0] for one in group]),
                spread([one[1] for one in group]),
                f"{mine - gap:+.4f}" if name != names[0] and mine is not None and gap is not None else "",
                spread([one[2] for one in group], 3),
                f"{mean([one[3] for one in group]) or 0:.0f}",
            ]
        )
    return without_empty_columns(head, rows)


def measure(member: Member, run: Run) -> Measured:
    """Return a run's loss at the end, its last evaluation loss, its mean applied candidate and its seconds."""
    losses = run.curve("loss")[1][-LAST:]
    values = run.curve(f"gap/{member.candidate}")[1]
    seconds = json.loads((member.directory / DONE).read_text(encoding="utf-8"))["seconds"]
    return (
        statistics.fmean(losses) if losses else None,
        run.last("eval_loss"),
        statistics.fmean(values) if values else None,
        seconds,
    )


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of ``values``; None if one of them is missing."""
    kept = [value for value in values if value is not None]
    return statistics.fmean(kept) if kept and len(kept) == len(values) else None


def spread(values: Sequence[float | None], digits: int = 4) -> str:
    """The mean, and for several values the standard deviation, as text; empty if one of them is missing."""
    middle = mean(values)
    if middle is None:
        return ""
    kept = [value for value in values if value is not None]
    return f"{middle:.{digits}f}" + (f" ± {statistics.stdev(kept):.{digits}f}" if len(kept) > 1 else "")
