"""How much slower the quickstart trains with GAP than with torch's fused AdamW.

    make bench-recipe                                                      # or:
    python tests/scripts/recipe_speed.py [STEPS] [any flag of the quickstart]

Runs the recipe with each optimizer in two threads of one process that take turns step by step, and once more with the
threads swapped. So both see the same state of the machine, and the medians over the pairs tell apart what two runs
after one another would not. A step's time is everything from one turn to the next: the batch, forward, backward,
optimizer, callbacks and logging. Of it the optimizer's own part is timed, too: where it is less than the noise of the
whole, it is what tells the two apart.
"""

import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
import quickstart

OPTIMIZERS = ("adamw_torch_fused", "gap_adamw")
WARM_UP = 5  # steps that are not counted: kernels are built, memory is allocated


class Turns:
    """Lets two threads run one at a time: one step each, and by turns the one or the other first."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.order = itertools.cycle([0, 1, 1, 0])
        self.turn = next(self.order)
        self.done: set[int] = set()

    def wait(self, thread: int) -> None:
        """Go on when it is the turn of ``thread``."""
        with self.changed:
            self.changed.wait_for(lambda: self.turn == thread)

    def give_up(self, thread: int, for_good: bool = False) -> None:
        """Let the next one run; ``for_good`` if ``thread`` is done."""
        with self.changed:
            if for_good:
                self.done.add(thread)
            self.turn = 1 - thread if for_good else thread if self.done else next(self.order)
            self.changed.notify_all()


class Timer(TrainerCallback):
    """Takes the time from turn to turn."""

    def __init__(self, turns: Turns, thread: int) -> None:
        self.turns, self.thread = turns, thread
        self.started: float | None = None
        self.times: list[float] = []
        self.optimizer_times: list[float] = []
        self.tokens = 0

    def median(self, times: list[float]) -> float:
        """Of ``times`` without the warm-up."""
        return statistics.median(times[WARM_UP:])

    def on_step_begin(self, args, state, control, **kwargs):
        if self.started is not None:
            self.times.append(time.perf_counter() - self.started)
        self.turns.give_up(self.thread)
        self.turns.wait(self.thread)
        self.started = time.perf_counter()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.optimizer_started = time.perf_counter()

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.optimizer_times.append(time.perf_counter() - self.optimizer_started)

    def on_train_end(self, args, state, control, **kwargs):
        self.tokens = state.num_input_tokens_seen


def measure(optimizers: Sequence[str], steps: int, flags: list[str]) -> dict[str, Timer]:
    """Train with both, the first in the first thread."""
    turns = Turns()
    timers = {optimizer: Timer(turns, thread) for thread, optimizer in enumerate(optimizers)}
    failed: list[str] = []

    def train(thread: int, optimizer: str, directory: str) -> None:
        turns.wait(thread)
        try:
            # fmt: off
            quickstart.main([
                "--optim", optimizer, "--output_dir", directory, "--max_steps", str(WARM_UP + steps + 1),
                "--eval_on_start", "false", "--eval_rows", "1", "--save_strategy", "no", "--disable_tqdm", "true",
                "--include_num_input_tokens_seen", "true", *flags,
            ], [timers[optimizer]])
            # fmt: on
        except BaseException:
            failed.append(optimizer)
            raise
        finally:
            turns.give_up(thread, for_good=True)

    with tempfile.TemporaryDirectory() as scratch:
        threads = [
            threading.Thread(target=train, args=(thread, optimizer, f"{scratch}/{optimizer}"))
            for thread, optimizer in enumerate(optimizers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise SystemExit(f"{', '.join(failed)} did not train; see above.")
    return timers


def interval(values: list[float]) -> tuple[float, float]:
    """95 % confidence interval of the median, by order statistics."""
    ordered, half = sorted(values), 0.98 * len(values) ** 0.5
    return ordered[max(0, int(len(values) / 2 - half))], ordered[min(len(values) - 1, int(len(values) / 2 + half))]


def main() -> None:
    flags = sys.argv[1:]
    steps = int(flags.pop(0)) if flags and flags[0].isdigit() else 100
    # a thread can be a few per cent slower than the other throughout, with where its memory happens to lie
    runs = [measure(order, steps, flags) for order in (OPTIMIZERS, OPTIMIZERS[::-1])]
    print(f"\n2 x {steps} steps each, {torch.get_num_threads()} threads, torch {torch.__version__}; medians of a step:")
    whole, own = {}, {}
    for optimizer in OPTIMIZERS:
        timers = [run[optimizer] for run in runs]
        whole[optimizer] = statistics.geometric_mean(timer.median(timer.times) for timer in timers)
        own[optimizer] = statistics.geometric_mean(timer.median(timer.optimizer_times) for timer in timers)
        per_second = timers[0].tokens / (WARM_UP + steps + 1) / whole[optimizer]
        print(
            f"{optimizer:20}{whole[optimizer] * 1000:8.1f} ms, of it the optimizer {own[optimizer] * 1000:6.2f} ms;"
            f"{per_second:6.0f} tokens/s"
        )
    pairs = [
        [b / a for a, b in zip(*(run[optimizer].times[WARM_UP:] for optimizer in OPTIMIZERS), strict=True)]
        for run in runs
    ]
    ratio = statistics.geometric_mean(map(statistics.median, pairs))
    low, high = (statistics.geometric_mean(ends) for ends in zip(*map(interval, pairs), strict=True))
    both = " and ".join(f"{statistics.median(some):.4f}" for some in pairs)
    print(f"a whole step, GAP / AdamW: {ratio:.4f} (95 %: {low:.4f} to {high:.4f}; by threads {both})")
    adamw_own, gap_own = (own[optimizer] for optimizer in OPTIMIZERS)
    print(f"the optimizer's own part changes the step by {(gap_own - adamw_own) / whole[OPTIMIZERS[0]]:+.2%}")


if __name__ == "__main__":
    main()
