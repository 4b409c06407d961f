"""How the loss goes on where a run changes from AdamW to GAP, in the quickstart on a pretrained model.

    python tests/scripts/from_adamw.py [SEEDS] [any flag of the quickstart]

Each seed trains with torch's AdamW, and goes on from its checkpoint with GAP in several ways; all see the same batches,
so their losses are compared step by step. Prints a table, in Markdown: the mean difference from AdamW over some steps
after the change, with 95 % intervals over the seeds.
"""

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from scipy import stats
from tqdm import tqdm
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
import quickstart

CHANGE, END = 40, 80
SPANS = ((2, 2), (2, 6), (2, 20), (21, 40))
"""Steps after the change; the first loss is that of the weights that AdamW left."""
WAYS = {
    "AdamW, whose state is thrown away": ("adamw_torch", "", False),
    "`gap_adamw`": ("gap_adamw", "", True),
    "`gap_adamw`, one choice for all": ("gap_adamw", "type=switch", True),
    "`gap_adamw_mix`": ("gap_adamw_mix", "", True),
    "`gap_adamw`, the state thrown away": ("gap_adamw", "", False),
}


class Losses(TrainerCallback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.by_step: dict[int, float] = {}

    def on_train_end(self, args, state, control, **kwargs):
        self.by_step = {log["step"]: log["loss"] for log in state.log_history if "loss" in log}


def train(folder: Path, seed: int, optim: str, optim_args: str, flags: list[str]) -> list[float]:
    """Run the quickstart; return the losses after the change."""
    losses = Losses()
    given = ["--optim_args", optim_args] if optim_args else []
    # fmt: off
    quickstart.main([
        "--output_dir", str(folder), "--optim", optim, *given, "--max_steps", str(END), "--save_steps", str(CHANGE),
        "--logging_steps", "1", "--eval_on_start", "false", "--eval_rows", "1", "--disable_tqdm", "true",
        "--seed", str(seed), "--lr_scheduler_type", "constant", "--warmup_steps", "0",
        "--learning_rate", "1e-3", *flags,
    ], [losses])
    # fmt: on
    return [losses.by_step[step] for step in range(CHANGE + 1, END + 1)]


def differences(seed: int, flags: list[str], bar: tqdm) -> dict[str, list[float]]:
    """Each way's losses minus AdamW's."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        whole = train(Path(scratch, "whole"), seed, "adamw_torch", "", flags)
        bar.update()
        for i, (way, (optim, optim_args, keep)) in enumerate(WAYS.items()):
            checkpoint = Path(scratch, f"way-{i}") / f"checkpoint-{CHANGE}"
            shutil.copytree(Path(scratch, "whole") / checkpoint.name, checkpoint)
            if not keep:
                (checkpoint / "optimizer.pt").unlink()
            more = [*flags, "--resume_from_checkpoint", str(checkpoint)]
            losses = train(checkpoint.parent, seed, optim, optim_args, more)
            found[way] = [a - b for a, b in zip(losses, whole, strict=True)]
            bar.update()
    return found


def main() -> None:
    flags = sys.argv[1:]
    seeds = int(flags.pop(0)) if flags and flags[0].isdigit() else 3
    with tqdm(total=seeds * (len(WAYS) + 1), unit="run") as bar:
        runs = [differences(seed, flags, bar) for seed in range(seeds)]
    print("| goes on with | " + " | ".join(f"steps {a} to {b}" if a < b else f"step {a}" for a, b in SPANS) + " |")
    print("|---" * (len(SPANS) + 1) + "|")
    for way in WAYS:
        cells = []
        for first, last in SPANS:
            means = [statistics.mean(run[way][first - 1 : last]) for run in runs]
            half = stats.t.ppf(0.975, seeds - 1) * statistics.stdev(means) / seeds**0.5
            cells.append(f"{statistics.mean(means):+.4f} ± {half:.4f}")
        print(f"| {way} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
