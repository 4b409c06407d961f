"""Kill training at random moments, resume it as its users do, and compare its end with that of an uninterrupted run.

    python -m tests.torture.kills --seed 0 --trials 20 --minutes 10

A trial is one run over one process, DDP, FSDP2, ZeRO 2 or ZeRO 3 that is killed up to five times, one rank or all of
them: anywhere, while it writes a checkpoint, while it records a step, or while it starts and resumes. Now and then the
choices file loses the end of its last line, too, as on a machine without power. In between a user does two things:
deletes a checkpoint that was left unfinished (transformers writes into the final directory, and would take it for the
last one), and starts the same command again. In the end parameters, optimizer state and choices have to be the same
bits on every rank.
"""

import json
import random
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from gap_hf.choices import Choices, read_choices
from gap_hf.choices.format import FILENAME

from .launch import Launch, launched, run
from .progress import Part, parser
from .victim import LAYOUTS, RUNS, SAVE_EVERY, train

STEPS = 5 * SAVE_EVERY + 4
KILLS = 5
"""At most, in one trial."""

OFTEN = ("switch", "wise")
"""The runs of a short torture."""

LIMIT = 90.0
"""Seconds for one start."""

MOMENTS = ("anywhere", "checkpoint", "checkpoint", "recording", "start")


@dataclass
class Whole:
    """The uninterrupted run.

    Attributes:
        seconds: how long it took.
        start: of these, until the first step.
        saving: the longest time a checkpoint took.
        digests: for each rank, what ``victim.digest`` gave.
        choices: its choices file.
        files: those of a checkpoint, relative to it, each with every number replaced by ``#``.
    """

    seconds: float
    start: float
    saving: float
    digests: list[dict[str, str]]
    choices: Choices
    files: set[str]


def whole(layout: str, choose: str, folder: Path) -> Whole:
    """Run it without a kill."""
    world = LAYOUTS[layout][0]
    before, first = time.time(), 0.0
    with launched(train, (layout, choose, STEPS, folder), world, folder / "logs", 2 * LIMIT) as launch:
        while launch.running() and not first:
            launch.wait(0.005)
            first = time.time() if (folder / FILENAME).exists() else 0.0
        launch.wait(LIMIT)
        if verdict := launch.verdict():
            raise RuntimeError(f"{layout}, {choose}: the uninterrupted run did not end well\n{verdict}")
    choices = read_choices(folder)
    changes, resets = int((choices.choices[1:] != choices.choices[:-1]).sum()), len(choices.resets)
    if changes < 3 or not (resets or "hysteresis_threshold" not in RUNS[choose][1]):
        raise RuntimeError(f"{layout}, {choose}: {changes} changes and {resets} resets put nothing to the test")
    written = [sorted(path.stat().st_mtime for path in files(one)) for one in checkpoints(folder)]
    return Whole(
        seconds=time.time() - before,
        start=first - before,
        saving=max(times[-1] - times[0] for times in written),
        digests=digests(folder, world),
        choices=choices,
        files=names(checkpoints(folder)[0]),
    )


def digests(folder: Path, world: int) -> list[dict[str, str]]:
    return [json.loads((folder / f"digest-rank{rank}.json").read_text()) for rank in range(world)]


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, finished or not, the oldest first."""
    return sorted(folder.glob("checkpoint-*"), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def files(checkpoint: Path) -> list[Path]:
    return [path for path in checkpoint.rglob("*") if path.is_file()]


def names(checkpoint: Path) -> set[str]:
    """The names of its files, without the number of its step."""
    return {re.sub(r"global_step\d+", "global_step#", str(path.relative_to(checkpoint))) for path in files(checkpoint)}


def is_finished(checkpoint: Path, expected: set[str]) -> bool:
    """Whether every file of a checkpoint is there and can be read to its end."""
    if not expected <= names(checkpoint):
        return False
    try:
        for path in files(checkpoint):
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
            elif path.suffix in (".pt", ".pth", ".bin"):  # what torch saves is a zip file
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is not None:
                        return False
            elif not path.stat().st_size:
                return False
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return False
    return True


def strike(launch: Launch, moment: str, reference: Whole, folder: Path, rng: random.Random) -> bool:
    """Wait for ``moment`` and kill one rank, or all. Returns False if the run ended before, or hung."""
    path = folder / FILENAME
    known, size = len(checkpoints(folder)), path.stat().st_size if path.exists() else 0
    events, deadline = rng.randint(1, 3 if moment == "checkpoint" else 20), time.monotonic() + LIMIT
    if moment in ("checkpoint", "recording"):
        while events and launch.running() and time.monotonic() < deadline:
            time.sleep(0.0005)
            now = len(checkpoints(folder)), path.stat().st_size if path.exists() else 0
            events -= (now[0] > known) if moment == "checkpoint" else (now[1] != size)
            known, size = now
        pause = rng.uniform(0, reference.saving if moment == "checkpoint" else 0.002)
    else:
        pause = rng.uniform(0, reference.start if moment == "start" else reference.seconds)
    if launch.wait(pause) or time.monotonic() > deadline:
        return False
    world = len(launch.processes)
    launch.kill(list(range(world)) if rng.random() < 0.5 else [rng.randrange(world)])
    launch.wait(rng.uniform(0, 0.3))  # what launches processes sees after a moment that one has died
    launch.end()
    return True


def tear(path: Path, saved: int, rng: random.Random) -> bool:
    """Cut the last line of the choices file off somewhere, unless it tells of a step that was saved."""
    if not path.exists():
        return False
    data = path.read_bytes()
    last = data.rfind(b"\n", 0, -1) + 1
    line = data[last:]
    if b'"step":' not in line[:8] or not line.endswith(b"\n") or json.loads(line)["step"] <= saved:
        return False
    path.write_bytes(data[: last + rng.randrange(1, len(line))])
    return True


def same_choices(mine: Choices, expected: Choices) -> bool:
    """Whether two choices files say the same."""
    for field in fields(Choices):
        a, b = getattr(mine, field.name), getattr(expected, field.name)
        if isinstance(a, np.ndarray):
            if a.dtype != b.dtype or not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
                return False
        elif a != b:
            return False
    return True


def difference(folder: Path, reference: Whole) -> str:
    """What of the end differs from the uninterrupted run's; empty if nothing does."""
    for rank, (mine, expected) in enumerate(
        zip(digests(folder, len(reference.digests)), reference.digests, strict=True)
    ):
        wrong = sorted(key for key in mine.keys() | expected.keys() if mine.get(key) != expected.get(key))
        if wrong:
            return f"rank {rank}: {len(wrong)} of {len(expected)} differ: {', '.join(wrong[:4])}"
    return "" if same_choices(read_choices(folder), reference.choices) else "the choices files differ"


def trial(layout: str, choose: str, reference: Whole, folder: Path, rng: random.Random, part: Part) -> str:
    """Kill and resume until the end; empty if nothing was lost."""
    world, kills = LAYOUTS[layout][0], rng.randint(2, KILLS)
    start = (train, (layout, choose, STEPS, folder), world, folder / "logs")
    for _ in range(kills):
        resumed = bool(checkpoints(folder))
        recorded = (folder / FILENAME).stat().st_size if (folder / FILENAME).exists() else 0
        moment = rng.choice(MOMENTS)
        with launched(*start, 2 * LIMIT) as launch:
            if not strike(launch, moment, reference, folder, rng):
                if verdict := launch.verdict():
                    return verdict
                break
        unfinished = [one for one in checkpoints(folder) if not is_finished(one, reference.files)]
        # from a checkpoint of its last step Trainer takes another step before it ends
        for one in {*unfinished, folder / f"checkpoint-{STEPS}"}:
            shutil.rmtree(one, ignore_errors=True)
        same = recorded == ((folder / FILENAME).stat().st_size if (folder / FILENAME).exists() else 0)
        saved = max(map(step_of, checkpoints(folder)), default=0)
        torn = rng.random() < 0.5 and tear(folder / FILENAME, saved, rng)
        part.done(0, kills=1, unfinished_checkpoints=len(unfinished), torn_lines=torn, resumes_killed=resumed and same)
    else:
        if verdict := run(*start, LIMIT):
            return verdict
    return difference(folder, reference)


def torture(seed: int, trials: int, layouts: list[str], part: Part, folder: Path, among: Sequence[str] = OFTEN) -> None:
    """All trials, layout by layout in turn, with the runs ``among``."""
    references: dict[tuple[str, str], Whole] = {}
    for n in range(trials):
        if part.time_is_up():
            return
        rng = random.Random(f"kills {seed} {n}")
        layout = layouts[n % len(layouts)]
        choose = among[(n + n // len(layouts)) % len(among)]
        if (layout, choose) not in references:
            references[layout, choose] = whole(layout, choose, folder / f"whole-{layout}-{choose}")
        where = folder / f"trial{n}-{layout}-{choose}"
        if problem := trial(layout, choose, references[layout, choose], where, rng, part):
            part.lose(f"trial {n} ({layout}, {choose}): {problem}")
        else:
            shutil.rmtree(where)
        part.done()


def main() -> None:
    arguments = parser("tests.torture.kills", "Kill and resume.", minutes=10)
    arguments.add_argument("--trials", type=int, default=20)
    arguments.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    arguments.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="optimizers and their options")
    given = arguments.parse_args()
    part = Part("kills", "trials", given.trials, given.minutes)
    with tempfile.TemporaryDirectory() as temporary:
        torture(given.seed, given.trials, given.layouts, part, given.logs or Path(temporary), given.runs)
    part.end()


if __name__ == "__main__":
    main()
