"""Bad gradients in every layout: NaN, infinity, huge, tiny, zero and missing ones, on one rank or on all.

    python -m tests.torture.gradients --seed 0 --episodes 20 --minutes 10

An episode is a few steps, one or two of them bad, from a fresh start. After every step all ranks must have decided
alike, and like the reference twin on whole parameters with the gradients that arrive; no rank may hang; and in the end
the log must say how many steps were not counted.
"""

import math
import os
import random
import tempfile
import zlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import gap_hf
from gap_hf.optim.rules import TYPES

from ..sharding import layouts, zero
from ..sharding.bag import CASES, Case, Oracle, tensors
from ..sharding.layouts import Wrapped, clipped, handed_on
from .faults import Fault, Row, averaged, draw
from .launch import Notes, follow, launched
from .progress import Part, parser

ALL = {**layouts.LAYOUTS, **zero.LAYOUTS}
TRIED = (
    "adamw-switch",
    "adamw-wise",
    "adam-wise-two-beta2",
    "sgdm-switch",
    "sgdm-wise",
    "sgdm-mix-wise",
    "adamw-default",
)
HUNG = timedelta(seconds=60)
START = 240.0
"""Seconds for one layout and case, all episodes."""

TOGETHER = 6
"""Layouts and cases in one launch."""


class Lost(Exception):
    """Something is not as it has to be; raised on all ranks at once."""


class Run:
    """One layout and case beside the twin."""

    def __init__(self, layout: str, case: str, out: Path) -> None:
        self.case: Case = CASES[case]
        self.wrapped: Wrapped = ALL[layout][1](self.case, tensors())
        self.blocks = [[t.to(self.wrapped.dtype) for t in block] for block in tensors()]
        self.start = [t for block in self.blocks for t in block]
        self.optimizer = self.wrapped.optimizer
        self.chooses = self.case.options["type"] != "default"
        layout = self.optimizer.layout()
        held = {id(p): p for g, group in enumerate(layout.numel) for i in range(len(group)) for p in layout.keys(g, i)}
        self.initial = [(p, p.detach().clone()) for p in held.values()]
        self.recorder = None
        if self.chooses:
            self.recorder = gap_hf.Recorder(self.optimizer, self.wrapped.model, out, record=not rank())
        self.steps = self.skipped = self.not_counted = 0

    def begin(self) -> None:
        """A fresh start of both, without building the layout again."""
        self.oracle = Oracle(self.case, self.start)
        self.scores: list[list[float]] = []
        if self.chooses:
            score = self.oracle.optimizer.score
            self.oracle.optimizer.score = lambda *given: self.keep(score(*given))
        with torch.no_grad():
            for p, value in self.initial:
                p.copy_(value)
        self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            for key in ("last_choice", "negative_steps", "J_bar"):
                if key in group:
                    value = group[key]
                    group[key] = [type(x)(0) for x in value] if isinstance(value, list) else 0
        scaler = getattr(getattr(self.wrapped.model, "optimizer", None), "loss_scaler", None)
        if hasattr(scaler, "cur_scale"):
            scaler.cur_scale = 16.0  # which every skipped step halves
        self.comparable, self.last = True, [None] * len(self.start)

    def keep(self, J: list[float]) -> list[float]:
        self.scores.append(J)
        return J

    def step(self, row: Row, fault: Fault | None) -> None:
        """Step both, and compare."""
        world, before = dist.get_world_size(), self.optimizer.steps_taken
        self.wrapped.step(fault.of(row) if fault is not None and rank() in fault.ranks else row)
        arrives = averaged(row, fault, world)
        finite = all(g is None or bool(g.isfinite().all()) for g in arrives)
        self.steps += 1
        if fault is not None and self.is_the_backends(fault, finite):
            self.comparable = False
        if self.optimizer.steps_taken == before:
            self.skipped += 1
            if finite and self.comparable:
                raise Lost("a step of finite gradients was skipped")
            self.agree([])
            return
        self.last = handed_on(self.wrapped.fills_in_zeros, self.last, arrives, self.blocks)
        self.scores.clear()
        self.oracle.step(clipped(self.last, self.wrapped.clip) if self.wrapped.clip else self.last)
        chosen = [group["last_choice"] for group in self.optimizer.param_groups]
        mine = self.optimizer.decision().not_counted() if self.chooses else []
        self.agree([chosen, mine])
        if not self.chooses or not self.comparable:
            self.not_counted += self.total(mine)
            return
        if chosen != self.oracle.choices():
            raise Lost(f"chose {chosen}, the twin {self.oracle.choices()}")
        expected = self.expected()
        if self.total(mine) != expected:
            raise Lost(f"{mine} scores are said not to count, by the twin {expected}")
        self.not_counted += expected

    def is_the_backends(self, fault: Fault, finite: bool) -> bool:
        """Whether what arrives after ``fault`` is the backend's own affair, or the precision's: the twin can't tell."""
        return (
            fault.kind in ("overflow", "tiny")
            or (bool(self.wrapped.clip) and not finite)
            or (self.wrapped.fills_in_zeros == "last" and fault.kind == "missing")
        )

    def total(self, not_counted: list[int]) -> int:
        """Of one choice for all every group says the same."""
        return sum(not_counted) if self.per_parameter() else max(not_counted, default=0)

    def per_parameter(self) -> bool:
        """Whether each parameter has its own choice."""
        return TYPES[self.case.options["type"]].per_parameter

    def expected(self) -> int:
        """How many of the twin's last scores do not count."""
        if not self.per_parameter():
            return int(not all(math.isfinite(sum(column)) for column in zip(*self.scores, strict=True)))
        return sum(not all(map(math.isfinite, J)) for J in self.scores)

    def agree(self, decided: list[Any]) -> None:
        """Raise ``Lost`` on all ranks unless all have come to the same."""
        counts = [(group.get("negative_steps"), repr(group.get("J_bar"))) for group in self.optimizer.param_groups]
        mine = zlib.crc32(repr((decided, counts, self.optimizer.steps_taken)).encode())
        digests = torch.zeros(dist.get_world_size(), dtype=torch.int64)
        digests[rank()] = mine
        dist.all_reduce(digests)
        if len(set(digests.tolist())) > 1:
            raise Lost(f"the ranks are not of one mind; this one: {decided}, {counts}")

    def compare_parameters(self) -> None:
        """Where they can be compared, those of ``wrapped`` are the twin's."""
        if self.wrapped.dtype != torch.float32 or not self.comparable or self.wrapped.clip:
            return
        with torch.no_grad():
            pairs = list(zip(self.wrapped.full(), self.oracle.params, strict=True))
            close = [torch.allclose(p.flatten(), q.flatten(), 1e-4, 1e-5, equal_nan=True) for p, q in pairs]
        wrong = torch.tensor([not good for good in close], dtype=torch.int64)
        dist.all_reduce(wrong)
        if wrong.any():
            raise Lost(f"parameters {wrong.nonzero().flatten().tolist()} are not the twin's")

    def episode(self, rng: random.Random) -> None:
        self.begin()
        generator = torch.Generator().manual_seed(rng.randrange(2**31))
        length = rng.randint(4, 8)
        bad = set(rng.sample(range(1, length), rng.randint(1, 2)))
        faults: list[str] = []
        for t in range(length):
            row: Row = [torch.randn(p.shape, generator=generator).to(p.dtype) for p in self.start]
            fault = draw(rng, self.wrapped, self.blocks, dist.get_world_size()) if t in bad else None
            if fault is not None:
                faults.append(f"step {t}: {fault}")
            try:
                self.step(row, fault)
            except Lost as lost:
                raise Lost(f"{'; '.join(faults)}; at step {t}: {lost}") from None
            if self.recorder is not None:
                self.recorder.add(self.steps)
        try:
            self.compare_parameters()
        except Lost as lost:
            raise Lost(f"{'; '.join(faults)}; in the end: {lost}") from None

    def check_log(self) -> None:
        """The log says how many did not count."""
        if self.recorder is None:
            return
        summary = self.recorder.summary()
        self.recorder.close()
        logged = {name: summary.get(f"gap/{name}", 0) for name in ("not_counted", "skipped")}
        expected = {"not_counted": self.not_counted, "skipped": self.skipped}
        if logged != expected:
            raise Lost(f"the log says {logged}; right were {expected}")


def rank() -> int:
    return dist.get_rank()


def work(seed: int, keys: list[str], episodes: int, out: Path) -> None:
    """On each rank: all ``keys``, one after the other. Rank 0 writes down what it begins, has done, and lost."""
    alone: dict[str, Any] = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    dist.init_process_group("gloo", timeout=HUNG, **alone)
    note = (lambda **_: None) if rank() else Notes(out).write
    for key in keys:
        layout, case = key.split("/")
        note(begins=key)
        try:
            run = Run(layout, case, out)
            for n in range(episodes):
                try:
                    run.episode(random.Random(f"gradients {seed} {key} {n}"))
                except Lost as lost:
                    raise Lost(f"episode {n}: {lost}") from None
            run.check_log()
        except Lost as lost:
            note(lost=str(lost))
        note(ends=key, steps=run.steps, skipped=run.skipped, not_counted=run.not_counted)


def watch(world: int, given: tuple[int, list[str], int, Path], part: Part) -> str | None:
    """Launch ``work`` and count what it notes.

    Returns:
        The key at which it came to a bad end, if it did.
    """
    out, keys = given[-1], given[1]
    current = keys[0]
    with launched(work, given, world, out, START * len(keys)) as launch:
        for note in follow(launch, out, START):
            current = note.get("begins", current)
            if "lost" in note:
                part.lose(f"{current}: {note['lost']}")
            if "ends" in note:
                part.done(steps=note["steps"], skipped=note["skipped"], scores_not_counted=note["not_counted"])
        verdict = launch.verdict()
    if verdict:
        part.lose(f"{current}: {verdict}")
        return current
    return None


def torture(seed: int, episodes: int, keys: list[str], part: Part, folder: Path) -> None:
    """All ``keys``, some to a launch; what comes to a bad end is left out of the next."""
    for world in sorted({ALL[key.split("/")[0]][0] for key in keys}):
        waiting = [key for key in keys if ALL[key.split("/")[0]][0] == world]
        while waiting and not part.time_is_up():
            some = waiting[:TOGETHER]
            bad = watch(world, (seed, some, episodes, folder / f"{world}-{len(waiting)}"), part)
            waiting = waiting[some.index(bad) + 1 if bad is not None else len(some) :]


def main() -> None:
    arguments = parser("tests.torture.gradients", "Bad gradients in every layout.", minutes=10)
    arguments.add_argument("--episodes", type=int, default=20, help="for each layout and case")
    arguments.add_argument("--layouts", nargs="+", choices=ALL, default=list(ALL))
    arguments.add_argument("--cases", nargs="+", choices=TRIED, default=list(TRIED))
    given = arguments.parse_args()
    keys = [f"{layout}/{case}" for layout in given.layouts for case in given.cases]
    random.Random(f"gradients {given.seed}").shuffle(keys)
    part = Part("gradients", "layouts and cases", len(keys), given.minutes)
    with tempfile.TemporaryDirectory() as temporary:
        torture(given.seed, given.episodes, keys, part, given.logs or Path(temporary))
    part.end()


if __name__ == "__main__":
    main()
