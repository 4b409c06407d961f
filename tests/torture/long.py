"""Many steps of each type in two processes: memory and file stay bounded, counters exact, and the ranks the same.

    python -m tests.torture.long --seed 0 --steps 50000 --minutes 15

The count of steps begins just below 2^24, from where on a float32 can't count any more.
"""

import gc
import hashlib
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import gap_hf
from gap_hf.choices import read_choices
from gap_hf.choices.format import FILENAME

from .launch import Notes, follow, launched
from .progress import Part, parser
from .victim import Regression, bits, rows

RUNS: dict[str, tuple[type, dict[str, Any]]] = {
    "adamw-default": (gap_hf.GapAdamW, {"type": "default", "betas": (0.9, 0.99)}),
    "adamw-switch": (
        gap_hf.GapAdamW,
        {"type": "switch", "betas": [(0.9, 0.99), (0.99, 0.99)], "J_ema": 0.5, "hysteresis_threshold": 3},
    ),
    "adamw-wise": (gap_hf.GapAdamW, {"betas": [(0.9, 0.99), (0.99, 0.99)], "hysteresis_threshold": 2}),
    "sgdm-default": (gap_hf.SGDM, {"type": "default", "momentum": 0.9}),
    "sgdm-switch": (gap_hf.SGDM, {"type": "switch", "momentum": [0.5, 0.9, 0.99]}),
    "sgdm-wise": (gap_hf.SGDM, {"type": "switch_parameter_wise", "momentum": [0.5, 0.9, 0.99]}),
}

LIMIT = 2**24
LOG_EVERY = 500
GROWTH = 4 * 2**20
"""Bytes by which a process may grow once it runs: the allocator's own ups and downs."""

OBJECTS = 500
"""Objects that may be more by then; with one kept per step they would be thousands."""

PATIENCE = 120.0


class Lost(Exception):
    """Something is not as it has to be."""


class Long:
    """One run on this rank."""

    def __init__(self, name: str, seed: int, steps: int, out: Path) -> None:
        torch.manual_seed(0)
        cls, options = RUNS[name]
        self.steps, self.start = steps, LIMIT - steps // 2
        self.model = DistributedDataParallel(Regression())
        params = list(self.model.parameters())
        decay = [{"params": params[::2], "weight_decay": 0.01}, {"params": params[1::2], "weight_decay": 0.0}]
        self.optimizer = cls(decay, lr=1e-3, **options)
        self.data = rows()
        self.rng = random.Random(f"long {seed} {dist.get_rank()}")
        self.step()
        saved = self.optimizer.state_dict()
        for state in saved["state"].values():
            state["step"] = torch.tensor(float(self.start), dtype=torch.float64)
        self.optimizer.load_state_dict(saved)
        self.taken, self.recorder, self.path = self.optimizer.steps_taken, None, out / FILENAME
        if self.optimizer.type != "default":
            mine = not dist.get_rank()
            self.recorder = gap_hf.Recorder(self.optimizer, self.model, out, start=self.start, record=mine)

    def step(self) -> None:
        some = self.rng.sample(self.data, 4)
        batch = {key: torch.stack([row[key] for row in some]) for key in some[0]}
        self.optimizer.zero_grad()
        self.model(**batch)["loss"].backward()
        self.optimizer.step()

    def compare_ranks(self) -> None:
        """Parameters, state and choices, by their hashes."""
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        tensors = [*params, *(value for p in params for value in self.optimizer.state[p].values())]
        choices = [(group["last_choice"], group["negative_steps"]) for group in self.optimizer.param_groups]
        text = repr([[bits(tensor) for tensor in tensors], choices])
        mine = int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)
        both = torch.tensor([mine, -mine])
        dist.all_reduce(both, dist.ReduceOp.MAX)
        if both.tolist() != [mine, -mine]:
            raise Lost("the ranks are no longer the same")

    def weigh(self) -> tuple[int, int]:
        """This process's bytes and objects."""
        gc.collect()
        return psutil.Process().memory_info().rss, len(gc.get_objects())

    def check_log(self) -> None:
        """The shares of a log add up."""
        if self.recorder is None:
            return
        summary = self.recorder.summary()
        shares = sum(value for key, value in summary.items() if key.startswith("gap/share_"))
        if abs(shares - 1) > 1e-4 or "gap/not_counted" in summary:
            raise Lost(f"the log says {summary}")

    def check_counts(self) -> None:
        """After all steps every count is exact."""
        if self.optimizer.steps_taken != self.taken + self.steps:
            raise Lost(f"steps_taken went from {self.taken} to {self.optimizer.steps_taken} in {self.steps} steps")
        counts = {float(state["step"]) for state in self.optimizer.state.values()}
        if counts != {self.start + self.steps}:
            raise Lost(f"step is {counts}, right is {self.start + self.steps}")

    def check_file(self) -> None:
        """Every step has a line, and none is longer than its choices are many."""
        if self.recorder is None or dist.get_rank():
            return
        self.recorder.close()
        lines = self.path.read_bytes().splitlines()
        longest, parameters = max(map(len, lines[1:])), sum(group["count"] for group in self.optimizer.param_groups)
        K = self.optimizer.param_groups[0]["K"]
        # two digits per parameter, a reset "[0,10]," at most for each, scores of six digits
        if longest > 60 + 10 * parameters + 16 * K:
            raise Lost(f"a line of the choices file has {longest} bytes for {parameters} parameters")
        found = read_choices(self.path).steps.tolist()
        if found != list(range(self.start + 1, self.start + self.steps + 1)):
            raise Lost(f"the choices file has {len(found)} steps of {self.steps}, the last is {found[-1]}")


def work(name: str, seed: int, steps: int, out: Path) -> None:
    """On each rank; the first tells how far it is."""
    dist.init_process_group("gloo")
    notes = Notes(out)
    tell = not dist.get_rank()
    try:
        run = Long(name, seed, steps, out)
        weights: list[tuple[int, int]] = []
        warm = max(steps // 10, min(1000, steps // 2))
        for t in range(1, steps + 1):
            run.step()
            if run.recorder is not None:
                run.recorder.add(run.start + t)
            if t % LOG_EVERY == 0 or t == steps:
                run.check_log()
                run.compare_ranks()
                if tell:
                    notes.write(steps=t)
            if t in (warm, steps):
                weights.append(run.weigh())
        (bytes_before, objects_before), (bytes_after, objects_after) = weights
        if bytes_after - bytes_before > GROWTH or objects_after - objects_before > OBJECTS:
            raise Lost(f"{bytes_after - bytes_before} bytes and {objects_after - objects_before} objects more")
        run.check_counts()
        run.check_file()
        if tell:
            size = run.path.stat().st_size if run.recorder is not None else 0
            notes.write(kib_grown=(bytes_after - bytes_before) // 1024, bytes_per_step=size // steps)
    except Lost as lost:
        notes.write(lost=f"rank {dist.get_rank()}: {lost}")
        raise


def torture(seed: int, steps: int, names: list[str], part: Part, folder: Path) -> None:
    """All runs, one after the other."""
    for name in names:
        if part.time_is_up():
            return
        out, reached = folder / name, 0
        with launched(work, (name, seed, steps, out), 2, out, PATIENCE + 0.1 * steps) as launch:
            for note in follow(launch, out, PATIENCE):
                if "lost" in note:
                    part.lose(f"{name}, seed {seed}: {note['lost']}")
                if "steps" in note:
                    part.done(note["steps"] - reached)
                    reached = note["steps"]
                if "kib_grown" in note:
                    part.bar.write(f"{name}: {json.dumps(note)}")
                if part.time_is_up():
                    return
            verdict = launch.verdict()
        if verdict and "Lost: " not in verdict:
            part.lose(f"{name}, seed {seed}: {verdict}")


def main() -> None:
    arguments = parser("tests.torture.long", "Many steps.", minutes=15)
    arguments.add_argument("--steps", type=int, default=50_000, help="of each run")
    arguments.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    given = arguments.parse_args()
    part = Part("long", "steps", given.steps * len(given.runs), given.minutes)
    with tempfile.TemporaryDirectory() as temporary:
        torture(given.seed, given.steps, given.runs, part, given.logs or Path(temporary))
    part.end()


if __name__ == "__main__":
    main()
