"""The runs of a sweep, and the commands that start them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..trainer.presets import PRESETS, options_of
from .errors import SweepError

DONE = "sweep_done.json"
"""Written into the directory of a run that has ended well."""
OWN_FLAGS = ("--optim", "--optim_args", "--output_dir", "--seed")


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
