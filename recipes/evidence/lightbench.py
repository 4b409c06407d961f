"""LightBench's tasks on a CPU: how often each contender solves one, at the same draws of learning rate and betas.

    make evidence-lightbench          # in an environment of its own, which it makes

LightBench (https://github.com/HomebrewML/LightBench, BSD) has small tasks, each with a condition that tells whether it
is solved, and a search over lr, 1 - beta1 and 1 - beta2. The tasks, their harness and its early stopping are used as
they are, but for two things. They are written for CUDA, so a ``TorchFunctionMode`` redirects their tensors to the CPU.
And the search is random, over a smaller part of LightBench's space, since most of it solves nothing, with the same
draws for every contender: then their successes can be compared draw by draw.
"""

import argparse
import contextlib
import csv
import io
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.overrides import TorchFunctionMode

from gap_hf.optim import GapAdamW

from .table import RESULTS

FILE = "lightbench.csv"
SEARCHED = "adamw"
"""The contender whose beta1 is drawn, too."""
REFERENCE = "adamw_.9"
DRAWN = {"lr": (1e-4, 1.0), "1mbeta1": (1e-2, 1.0), "1mbeta2": (1e-4, 1e-1)}
"""Between which values, uniformly in the logarithm."""
LEFT_OUT = {
    **dict.fromkeys(("MNIST", "SVHN", "CIFAR10_wide", "CIFAR100", "Tolstoi_RNN"), "needs a download"),
    "grokking": "compares optimizers of its own, without a condition",
    **dict.fromkeys(("create_hiker_analogy_diagram", "format_results", "generate_animations"), "no task"),
    **dict.fromkeys(("loss_contour", "merge_logs", "__main__"), "no task"),
}
"""Of LightBench's modules, and why; what fails besides is said when it does."""


class Result(NamedTuple):
    """A trial.

    Attributes:
        task, difficulty, contender, trial: which one it is.
        lr, beta1, beta2: what was drawn; contenders with candidates have their own beta1.
        solved: whether the task's condition was met.
        seconds: that it took.
    """

    task: str
    difficulty: str
    contender: str
    trial: int
    lr: float
    beta1: float
    beta2: float
    solved: bool
    seconds: float


def gap(betas: Sequence[float], **options: Any) -> Callable[..., Any]:
    """A contender of the package."""
    return lambda params, lr, beta1, beta2, **rest: GapAdamW(
        params, lr=lr, betas=[(beta, beta2) for beta in betas], **options, **rest
    )


CONTENDERS: dict[str, Callable[..., Any]] = {
    REFERENCE: lambda params, lr, beta1, beta2, **rest: torch.optim.AdamW(params, lr=lr, betas=(0.9, beta2), **rest),
    SEARCHED: lambda params, lr, beta1, beta2, **rest: torch.optim.AdamW(params, lr=lr, betas=(beta1, beta2), **rest),
    "qhm": gap((0.0, 0.9), type="mix", weights=(0.3, 0.7)),
    "mix_.5_.9_.99": gap((0.5, 0.9, 0.99), type="mix"),
    "switch_.5_.9_.99": gap((0.5, 0.9, 0.99), type="switch"),
    "pw_.5_.99": gap((0.5, 0.99), type="switch_parameter_wise"),
}
"""Makers of optimizers from params, lr, beta1, beta2, eps and weight_decay."""


# ---------------------------------------------------------------- a CPU for a GPU


class OnCpu(TorchFunctionMode):
    """Whatever is asked for on CUDA is on the CPU."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.Tensor.cuda:
            return args[0]
        kwargs = {name: on_cpu(value) for name, value in (kwargs or {}).items()}
        return function(*map(on_cpu, args), **kwargs)


def on_cpu(value: Any) -> Any:
    """A device of the CPU for one of CUDA; other values as they are."""
    is_cuda = isinstance(value, torch.device) and value.type == "cuda"
    return "cpu" if is_cuda or (isinstance(value, str) and value.startswith("cuda")) else value


@contextlib.contextmanager
def cpu_only() -> Iterator[None]:
    """In this context, CUDA is the CPU."""
    waits = {name: getattr(torch.cuda, name) for name in ("synchronize", "empty_cache", "device")}
    try:
        for name in waits:
            setattr(torch.cuda, name, lambda *_args, **_kwargs: contextlib.nullcontext())
        with OnCpu():
            yield
    finally:
        for name, function in waits.items():
            setattr(torch.cuda, name, function)


# ---------------------------------------------------------------- trials


def quieten() -> None:
    """Spare the screen each trial, which is an error to optuna when it is solved."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def sampler(seed: int) -> Any:
    """What optuna asks for the values of a trial."""
    import optuna

    class Drawn(optuna.samplers.RandomSampler):
        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            if name in DRAWN:
                distribution = optuna.distributions.FloatDistribution(*DRAWN[name], log=True)
            return super().sample_independent(study, trial, name, distribution)

    return Drawn(seed=seed)


def run(task: str, difficulty: str, contender: str, trial: int, steps: int) -> Result | None:
    """Run a trial; None where the task has no such difficulty."""
    import lightbench
    from lightbench import utils

    drawn: list[tuple[float, float, float]] = []
    solved = False

    def optimizer(params: Iterable[Any], lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> Any:
        drawn.append((lr, *betas))
        return CONTENDERS[contender](params, lr, *betas, eps=eps, weight_decay=weight_decay)

    def watched(
        model: Any, data: Any, loss_fn: Any, win_condition: Any, steps: int, opt: Any, *decay: Any, **options: Any
    ) -> Any:
        def condition(*args: Any) -> tuple[bool, Any]:
            nonlocal solved
            won, extra = win_condition(*args)
            solved |= bool(won)
            return won, extra

        options = {**options, "trials": 1, "device": "cpu"}
        return utils.trial(model, data, loss_fn, condition, steps, [optimizer], *decay, **options)

    module = lightbench.load(task)
    module.trial = watched
    utils.AutoSampler = lambda **_: sampler(trial)
    options = {
        name: getattr(parameter.default, "default", parameter.default)  # typer's options
        for name, parameter in signature(module.main).parameters.items()
    }
    utils.set_seed(trial)
    begin = time.perf_counter()
    try:
        with cpu_only(), contextlib.redirect_stdout(io.StringIO()):
            module.main(**{**options, "config": difficulty, "steps": steps})
    except utils.SkipConfig:
        return None
    lr, beta1, beta2 = drawn[0]
    return Result(task, difficulty, contender, trial, lr, beta1, beta2, solved, time.perf_counter() - begin)


def tasks() -> list[str]:
    """The names of LightBench's tasks."""
    import lightbench

    return [name for name in lightbench.available() if name not in LEFT_OUT]


# ---------------------------------------------------------------- the file


def read(path: Path) -> dict[tuple[str, str, str, int], Result]:
    """The trials so far."""
    if not path.exists():
        return {}
    found = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            names = (line["task"], line["difficulty"], line["contender"], int(line["trial"]))
            lr, beta1, beta2, seconds = (float(line[name]) for name in ("lr", "beta1", "beta2", "seconds"))
            found[names] = Result(*names, lr, beta1, beta2, line["solved"] == "1", seconds)
    return found


def by_task(results: Path) -> dict[tuple[str, str], dict[str, list[bool]]]:
    """Of each task and difficulty, whether each contender's trials solved it; only trials that all contenders have."""
    found: dict[tuple[str, str], dict[int, dict[str, bool]]] = defaultdict(lambda: defaultdict(dict))
    for row in read(results / FILE).values():
        found[row.task, row.difficulty][row.trial][row.contender] = row.solved
    whole = {
        task: [some for some in trials.values() if some.keys() == CONTENDERS.keys()] for task, trials in found.items()
    }
    return {
        task: {name: [some[name] for some in trials] for name in CONTENDERS} for task, trials in whole.items() if trials
    }


def write(path: Path, results: Iterable[Result]) -> None:
    """Replace the file in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Result._fields)
        for row in sorted(results):
            numbers = (f"{x:.6g}" for x in (row.lr, row.beta1, row.beta2))
            writer.writerow([*row[:4], *numbers, int(row.solved), f"{row.seconds:.2f}"])
    unfinished.replace(path)


def main() -> None:
    """Read the command line and run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", help="names of LightBench's modules")
    parser.add_argument("--difficulties", nargs="+", default=["trivial", "easy"])
    parser.add_argument("--trials", type=int, default=8, help="draws of lr, beta1 and beta2")
    parser.add_argument("--steps", type=int, default=600, help="of a trial, at most")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the directory of the file")
    args = parser.parse_args()
    path = args.results / FILE
    known = read(path)
    todo = [(task, level) for level in args.difficulties for task in args.tasks or tasks()]
    quieten()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("", total=len(todo) * args.trials)
        for task, level in todo:
            progress.update(bar, description=f"{task}, {level}")
            try:
                for trial in range(args.trials):
                    for contender in CONTENDERS:
                        if (task, level, contender, trial) not in known:
                            result = run(task, level, contender, trial, args.steps)
                            if result is not None:
                                known[task, level, contender, trial] = result
                    progress.advance(bar)
            except Exception as error:  # whatever a task does that a CPU can't
                said, *_ = str(error).splitlines() or ["no message"]
                progress.print(f"{task}, {level}: left out, {type(error).__name__}: {said}")
            write(path, known.values())
    print(f"{len(known)} trials; they are in {path}")


if __name__ == "__main__":
    main()
