"""The runs of a sweep, and the commands that start them."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..trainer.presets import PRESETS
from .contenders import Contender, Role, contenders, rewritten
from .errors import SweepError

DONE = "sweep_done.json"
"""Written into the directory of a run that has ended well."""
OWN_FLAGS = ("--optim", "--optim_args", "--output_dir", "--seed")


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        contender: the optimizer, the same for all seeds and learning rates.
        lr: the run's learning rate, if the sweep sets it.
        seed: the run's seed.
        directory: the run's ``output_dir``.
        command: the command that starts it.
        candidate: the name of a candidate's value in its logs: ``beta1`` or ``momentum``.
    """

    contender: Contender
    lr: float | None
    seed: int
    directory: Path
    command: list[str]
    candidate: str

    @property
    def name(self) -> str:
        """The contender's name."""
        return self.contender.name


def plan(
    script: Path,
    flags: Sequence[str],
    gap: str = "gap_adamw",
    gap_args: str | None = None,
    values: Sequence[float] | None = None,
    seeds: Sequence[int] = (42,),
    out: Path = Path("runs/sweep"),
    launch: Path | None = None,
    lrs: Sequence[float] | None = None,
    controls: bool = True,
) -> list[Member]:
    """List the runs of a sweep, GAP first.

    Args:
        script: a training script that takes ``TrainingArguments``' flags.
        flags: flags for every run.
        gap: an ``optim`` name of this package.
        gap_args: the ``optim_args`` for that name.
        values: the fixed values of beta1 (or the momentum); by default a usual grid. GAP's smallest candidate joins
            them.
        seeds: the seeds that every optimizer runs with.
        out: the directory that holds a directory per run.
        launch: an accelerate config file; without it each run is one process.
        lrs: the learning rates that every optimizer runs at; without any it is the script's business.
        controls: whether what tests GAP's choosing takes part, see ``contenders``.

    Raises:
        SweepError: there is no such script, config file or optimizer, the optimizer refuses a value, a learning rate
            or ``gap_args``, or a flag is one that the sweep sets.
    """
    if not script.is_file():
        raise SweepError(f"{script}: there is no such script.")
    if launch is not None and not launch.is_file():
        raise SweepError(f"{launch}: there is no such accelerate config.")
    check_flags(flags, lrs)
    found = contenders(gap, gap_args, values, controls)
    start = [sys.executable, "-m", "gap_hf", str(script)]
    if launch is not None:
        start[1:1] = ["-m", "accelerate.commands.launch", "--config_file", str(launch)]
    seeds = list(dict.fromkeys(seeds))
    rates: list[float | None] = [*{f"{lr:.12g}": lr for lr in lrs}.values()] if lrs else [None]
    members = []
    for contender in found:
        for lr in rates:
            rate = [] if lr is None else ["--learning_rate", f"{lr:.12g}"]
            for seed in seeds:
                directory = out / directory_name(contender.name, lr, seed if len(seeds) > 1 else None)
                given = text_for(contender, gap, seed)
                own = ["--optim", gap, *(["--optim_args", given] if given else []), *rate]
                command = [*start, *flags, *own, "--seed", str(seed), "--output_dir", str(directory)]
                candidate = PRESETS[gap].optimizer.family.candidate_name
                members.append(Member(contender, lr, seed, directory, command, candidate))
    return members


def text_for(contender: Contender, gap: str, seed: int) -> str | None:
    """Return the contender's ``optim_args`` for a run; what is drawn at random is drawn anew for each seed."""
    if contender.role is Role.RANDOM and "seed" in PRESETS[gap].optimizer.options:
        return rewritten(contender.optim_args, {"seed": str(seed)})
    return contender.optim_args


def check_flags(flags: Sequence[str], lrs: Sequence[float] | None) -> None:
    """Raise SweepError if a flag of the script is one that the sweep sets, or a learning rate is none."""
    for flag in flags:
        if flag.startswith("--") and name_of(flag) in OWN_FLAGS:
            raise SweepError(f"{flag} is set by the sweep: see its own --gap, --gap-args, --out and --seed")
        if lrs and flag.startswith("--") and name_of(flag) == "--learning_rate":
            raise SweepError(f"{flag} contradicts --lr, which sets it for every run: leave one of them out")
    for lr in lrs or ():
        if not (math.isfinite(lr) and lr > 0):
            raise SweepError(f"--lr {lr:g}: a learning rate is a number > 0")


def directory_name(name: str, lr: float | None, seed: int | None) -> str:
    """Return the name of a run's directory; without a learning rate or seed, it has none."""
    return name + ("" if lr is None else f"-lr{lr:.12g}") + ("" if seed is None else f"-seed{seed}")


def name_of(flag: str) -> str:
    """Return the name of a flag, ``--optim`` for ``--optim=x``; transformers takes ``-`` for ``_``, too."""
    return "--" + flag[2:].partition("=")[0].replace("-", "_")
