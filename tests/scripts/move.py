"""Go on with a run in a layout, up to a step, with a portable state in each checkpoint.

On every rank: python -m tests.scripts.move LAYOUT STOP OUTPUT [PORTABLE]
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

import gap_hf  # noqa: F401

from ..sharding.leaving import leave
from ..sharding.on_cpu import keep_full_state_where_it_is, take_gloo_for_an_accelerator
from ..torture.victim import LAYOUTS, Regression, rows

STEPS, BATCH = 24, 8


class Stop(TrainerCallback):
    """Saves and stops at a step, with the schedule of the whole run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def train(layout: str, stop: int, output: Path, portable: bool = True) -> Trainer:
    """Go on up to step ``stop``, from the last checkpoint if there is one."""
    if layout.startswith("fsdp"):
        take_gloo_for_an_accelerator()
        keep_full_state_where_it_is()
    _, given, environment = LAYOUTS[layout]
    if layout == "fsdp2":  # the other way to save it
        given = {**given, "fsdp_config": {**given["fsdp_config"], "state_dict_type": "SHARDED_STATE_DICT"}}
    os.environ |= environment
    args = TrainingArguments(
        output_dir=str(output),
        optim="gap_adamw",
        optim_args=f"betas=0.5:0.8:0.95,hysteresis_threshold=1,portable={portable}",
        max_steps=STEPS,
        save_strategy="no",
        logging_steps=1,
        learning_rate=0.02,
        max_grad_norm=0.0,
        lr_scheduler_type="linear",
        per_device_train_batch_size=BATCH // int(os.environ.get("WORLD_SIZE", "1")),
        report_to="none",
        disable_tqdm=True,
        **given,
    )
    torch.manual_seed(0)
    trainer = Trainer(Regression(dropout=0.0), args, train_dataset=rows(), callbacks=[Stop(stop)])
    checkpoint = get_last_checkpoint(str(output))
    if checkpoint is not None and args.process_index == 0:
        set_batch_size(Path(checkpoint) / "trainer_state.json", args.train_batch_size)
    PartialState().wait_for_everyone()
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def set_batch_size(path: Path, size: int) -> None:
    """Set each process's batch size in a checkpoint: before transformers 5.5 Trainer prefers it to its arguments."""
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "train_batch_size": size}))


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), "without" not in sys.argv)
    leave()
