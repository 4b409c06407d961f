"""How much slower the quickstart trains with GAP than with torch's fused AdamW.

    make bench-recipe                                                      # or:
    python tests/scripts/recipe_speed.py [STEPS] [any flag of the quickstart]

Runs the recipe once with each optimizer in two threads of one process that take turns step by step. So both see the
same state of the machine, and the medians over the pairs tell apart what two runs after one another would not. A step's
time is everything from one turn to the next: the batch, forward, backward, optimizer, callbacks and logging.
"""

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
import quickstart

OPTIMIZERS = ("adamw_torch_fused", "gap_adamw")
WARM_UP = 5  # steps that are not counted: kernels are built, memory is allocated


class Turns:
    """Lets so many threads run one at a time, in a fixed order."""

    def __init__(self, threads: int) -> None:
        self.changed = threading.Condition()
        self.waiting_or_running = list(range(threads))
        self.turn = 0

    def wait(self, thread: int) -> None:
        """Go on when it is the turn of ``thread``."""
        with self.changed:
            self.changed.wait_for(lambda: self.turn == thread)

    def give_up(self, thread: int, for_good: bool = False) -> None:
        """Let the next thread run; ``for_good`` if ``thread`` is done."""
        with self.changed:
            place = self.waiting_or_running.index(thread)
            self.turn = self.waiting_or_running[(place + 1) % len(self.waiting_or_running)]
            if for_good:
                self.waiting_or_running.remove(thread)
            self.changed.notify_all()


class Timer(TrainerCallback):
    """Takes the time from turn to turn."""

    def __init__(self, turns: Turns, thread: int) -> None:
        self.turns, self.thread = turns, thread
        self.started: float | None = None
        self.times: list[float] = []
        self.tokens = 0

    def on_step_begin(self, args, state, control, **kwargs):
        if self.started is not None:
            self.times.append(time.perf_counter() - self.started)
        self.turns.give_up(self.thread)
        self.turns.wait(self.thread)
        self.started = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        self.tokens = state.num_input_tokens_seen


def main() -> None:
    numbers = [argument for argument in sys.argv[1:2] if argument.isdigit()]
    steps, flags = int((numbers or [200])[0]), sys.argv[1 + len(numbers) :]
    turns = Turns(len(OPTIMIZERS))
    timers = [Timer(turns, thread) for thread in range(len(OPTIMIZERS))]
    failed: list[str] = []

    def train(thread: int, optimizer: str, directory: str) -> None:
        turns.wait(thread)
        try:
            # fmt: off
            quickstart.main([
                "--optim", optimizer, "--output_dir", directory, "--max_steps", str(WARM_UP + steps + 1),
                "--eval_on_start", "false", "--eval_rows", "1", "--save_strategy", "no", "--disable_tqdm", "true",
                "--include_num_input_tokens_seen", "all", *flags,
            ], [timers[thread]])
            # fmt: on
        except BaseException:
            failed.append(optimizer)
            raise
        finally:
            turns.give_up(thread, for_good=True)

    with tempfile.TemporaryDirectory() as scratch:
        threads = [
            threading.Thread(target=train, args=(thread, optimizer, f"{scratch}/{optimizer}"))
            for thread, optimizer in enumerate(OPTIMIZERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise SystemExit(f"{', '.join(failed)} did not train; see above.")

    adamw, gap = (timer.times[WARM_UP:] for timer in timers)
    ratios = sorted(b / a for a, b in zip(adamw, gap, strict=True))
    print(f"\n{steps} steps each, {torch.get_num_threads()} threads, torch {torch.__version__}; a step, in medians:")
    for optimizer, timer in zip(OPTIMIZERS, timers, strict=True):
        step = statistics.median(timer.times[WARM_UP:])
        per_second = timer.tokens / (WARM_UP + steps + 1) / step
        print(f"{optimizer:20} {step * 1000:8.1f} ms {per_second:8.0f} tokens/s")
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    print(f"GAP / AdamW, step by step: {statistics.median(ratios):.4f} (half of them from {low:.4f} to {high:.4f})")


if __name__ == "__main__":
    main()
