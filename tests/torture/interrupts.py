"""Interrupt steps at random lines: the steps that follow must be those of an optimizer that was never interrupted.

    python -m tests.torture.interrupts --seed 0 --trials 2000 --minutes 5

Ctrl-C can come between any two lines. What it leaves behind must be all in the optimizer's state: after some steps and
an interrupted one, the next steps are compared, bit for bit, with those of a new optimizer that has loaded this state.
Under DeepSpeed ZeRO, which calls ``step`` once per group, the next steps must each move the parameters once by the
chosen momentum.
"""

import copy
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import gap_hf

from ..optim.twins import KERNELS
from ..sharding.bag import Case, tensors
from ..sharding.zero import Zero
from .fuzz_states import BUILDS
from .launch import Notes, follow, launched
from .progress import Part, parser

PACKAGE = str(Path(gap_hf.__file__).parent)
ERRORS = (KeyboardInterrupt, RuntimeError, MemoryError)
PATIENCE = 120.0
TOGETHER = 500
"""Trials in one launch."""

MOMENTUM = Case(gap_hf.SGDM, object, {"type": "switch", "momentum": [0.5, 0.9], "hysteresis_threshold": 10**6})


class Lines:
    """Counts the lines of the package that are executed, and raises ``error`` at one of them."""

    def __init__(self, stop: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.count, self.stop, self.error = 0, stop, error

    def __enter__(self) -> "Lines":
        sys.settrace(self.enter)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.settrace(None)

    def enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        # a line of live.py goes through all objects of the process, one event each
        return self.line if file.startswith(PACKAGE) and not file.endswith("live.py") else None

    def line(self, frame: FrameType, event: str, arg: Any) -> Any:
        self.count += event == "line"
        if self.count == self.stop:
            sys.settrace(None)
            raise self.error("interrupted by the test")
        return self.line


def interrupted(action: Callable[[Lines], None], count: int, rng: random.Random) -> str:
    """Run ``action`` and interrupt it somewhere in the ``count`` lines that it has; says where."""
    error, stop = rng.choice(ERRORS), rng.randint(1, count)
    try:
        action(Lines(stop, error))
    except ERRORS as raised:
        if "interrupted by the test" not in str(raised):
            raise
        trace = raised.__traceback__
        while (
            trace is not None and trace.tb_next is not None and trace.tb_next.tb_next is not None
        ):  # but for this file's
            trace = trace.tb_next
        if trace is not None:
            return f"{error.__name__} at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return "not at all"


def step_within(lines: Lines, optimizer: torch.optim.Optimizer) -> None:
    with lines:
        optimizer.step()


def set_gradients(params: list[nn.Parameter], rng: random.Random) -> None:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator) if rng.random() < 0.9 else None


class Plain:
    """Optimizers of this process alone, of every family, type and kernel."""

    def __init__(self) -> None:
        self.lines: dict[tuple[int, int, int], int] = {}

    def build(self, which: int, kernel: int) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        cls, options = BUILDS[which]
        generator = torch.Generator().manual_seed(0)
        params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 2), (2,), ()]]
        flags = list(KERNELS.values())[kernel]
        groups = [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "lr": 0.02}]
        return params, cls(groups, lr=0.01, **options, **flags)

    def trial(self, rng: random.Random) -> str:
        """Empty if all is well."""
        which, kernel, before = rng.randrange(len(BUILDS)), rng.randrange(len(KERNELS)), rng.randrange(4)
        if (which, kernel, before) not in self.lines:
            self.lines[which, kernel, before] = self.measure(which, kernel, before)
        name = f"{BUILDS[which]}, {list(KERNELS)[kernel]}"
        params, optimizer = self.build(which, kernel)
        for _ in range(before):
            set_gradients(params, rng)
            optimizer.step()
        set_gradients(params, rng)
        where = interrupted(lambda lines: step_within(lines, optimizer), self.lines[which, kernel, before], rng)
        others, fresh = self.build(which, kernel)
        with torch.no_grad():
            for p, q in zip(params, others, strict=True):
                q.copy_(p)
        fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for _ in range(3):
            set_gradients(params, rng)
            for p, q in zip(params, others, strict=True):
                q.grad = None if p.grad is None else p.grad.clone()
            taken = optimizer.steps_taken
            optimizer.step()
            fresh.step()
            if optimizer.steps_taken != taken + 1:
                return f"{name}, {where}: steps_taken went from {taken} to {optimizer.steps_taken}"
            if not all(torch.equal(p, q) for p, q in zip(params, others, strict=True)):
                return f"{name}, step {before + 1}, {where}: the next steps differ"
        return ""

    def measure(self, which: int, kernel: int, before: int) -> int:
        """How many lines a step has."""
        params, optimizer = self.build(which, kernel)
        rng = random.Random(0)
        for _ in range(before):
            set_gradients(params, rng)
            optimizer.step()
        set_gradients(params, rng)
        step_within(lines := Lines(), optimizer)
        return lines.count


class UnderZero:
    """SGD with momentum, whose step can be told from its buffers, under ZeRO 1, 2 and 3."""

    def __init__(self) -> None:
        self.engines: dict[int, tuple[Zero, int]] = {}

    def trial(self, rng: random.Random) -> str:
        stage = rng.randint(1, 3)
        if stage not in self.engines:
            options = {"sub_group_size": 10} if stage == 3 else {}
            wrapped = Zero(MOMENTUM, tensors(), stage=stage, **options)
            for _ in range(2):
                wrapped.step(self.gradients(rng))
            self.step_within(lines := Lines(), wrapped, rng)
            self.engines[stage] = wrapped, lines.count
        wrapped, count = self.engines[stage]
        optimizer = wrapped.optimizer
        groups = [(group, group["params"]) for group in optimizer.param_groups]
        where = interrupted(lambda lines: self.step_within(lines, wrapped, rng), count, rng)
        # DeepSpeed keeps one group only, and the gradients that it has summed up: with that no optimizer could go on
        optimizer.param_groups = [group for group, _ in groups]
        for group, params in groups:
            group["params"] = params
        wrapped.model.optimizer.averaged_gradients = {}
        wrapped.model.optimizer.zero_grad()
        layout = optimizer.layout()
        held = [(g, p) for g, group in enumerate(layout.numel) for i in range(len(group)) for p in layout.keys(g, i)]
        for _ in range(2):
            before, taken = {p: p.detach().clone() for _, p in held}, optimizer.steps_taken
            wrapped.step(self.gradients(rng))
            if optimizer.steps_taken != taken + 1:
                return f"ZeRO {stage}, {where}: steps_taken went from {taken} to {optimizer.steps_taken}"
            for g, p in held:
                group = optimizer.param_groups[g]
                moved = group["lr"] * optimizer.state[p][f"momentum_buffer_{group['last_choice']}"]
                if not torch.allclose(before[p] - p, moved, rtol=1e-3, atol=1e-5):
                    return f"ZeRO {stage}, {where}: the next step did not move group {g} once by its momentum"
        return ""

    def step_within(self, lines: Lines, wrapped: Zero, rng: random.Random) -> None:
        """A step in which ``lines`` sees those of the optimizer's own calls, but not of DeepSpeed's looking at it."""
        step = wrapped.optimizer.step

        def observed(*given: Any) -> Any:
            with lines:
                return step(*given)

        wrapped.optimizer.step = observed
        try:
            wrapped.step(self.gradients(rng))
        finally:
            del wrapped.optimizer.step

    def gradients(self, rng: random.Random) -> list[torch.Tensor | None]:
        generator = torch.Generator().manual_seed(rng.randrange(2**31))
        return [torch.randn(t.shape, generator=generator) for block in tensors() for t in block]


KINDS: dict[str, type] = {"plain": Plain, "zero": UnderZero}


def work(where: str, seed: int, first: int, count: int, out: Path) -> None:
    """Trials ``first`` to ``first + count``."""
    notes = Notes(out)
    if where == "zero":
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed wants to be told
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    trials = KINDS[where]()
    for n in range(first, first + count):
        notes.write(trial=n, problem=trials.trial(random.Random(f"interrupts {where} {seed} {n}")))


def torture(where: str, seed: int, first: int, trials: int, part: Part, folder: Path) -> None:
    """All trials of one kind; one that ends its process is lost, and the rest go on in another."""
    last = first + trials
    while first < last and not part.time_is_up():
        count, out = min(TOGETHER, last - first), folder / f"{where}-{first}"
        with launched(work, (where, seed, first, count, out), 1, out, PATIENCE * 10) as launch:
            for note in follow(launch, out, PATIENCE):
                first = note["trial"] + 1
                if note["problem"]:
                    part.lose(f"{where}, seed {seed}, trial {note['trial']}: {note['problem']}")
                part.done()
            verdict = launch.verdict()
        if verdict:
            part.lose(f"{where}, seed {seed}, trial {first}: {verdict}")
            first += 1


def main() -> None:
    arguments = parser("tests.torture.interrupts", "Interrupt steps.", minutes=5)
    arguments.add_argument("--trials", type=int, default=2000, help="of each kind")
    arguments.add_argument("--first", type=int, default=0, help="number of the first trial")
    arguments.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    given = arguments.parse_args()
    part = Part("interrupts", "trials", given.trials * len(given.only), given.minutes)
    with tempfile.TemporaryDirectory() as temporary:
        for where in given.only:
            torture(where, given.seed, given.first, given.trials, part, given.logs or Path(temporary))
    part.end()


if __name__ == "__main__":
    main()
