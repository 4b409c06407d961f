"""Train by Trainer and in a bare Accelerate loop, and write what each step took for its batch size, on each rank.

accelerate launch -m tests.scripts.batch_sizes DIRECTORY
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import TrainerCallback

import gap_hf
from gap_hf.optim.find import find_gap_optimizer

from ..tiny import tiny_data, tiny_model, tiny_trainer

ROWS, PER_DEVICE, ACCUMULATED = 26, 2, 3


class Watch(TrainerCallback):
    """Collects the batch sizes."""

    def __init__(self) -> None:
        self.sizes: list[float] = []

    def on_step_end(self, args, state, control, optimizer, **kwargs):
        self.sizes.append(find_gap_optimizer(optimizer).param_groups[0]["last_batch_size"])


def by_trainer(directory: Path, averaged: bool, counted: bool) -> list[float]:
    """Train two epochs; ``averaged`` over tokens of all devices, ``counted``: whether Trainer scales by tokens."""
    watch = Watch()
    trainer = tiny_trainer(
        directory,
        [watch],
        optim="rf_adamw",
        max_grad_norm=0.0,
        max_steps=-1,
        num_train_epochs=2,
        per_device_train_batch_size=PER_DEVICE,
        gradient_accumulation_steps=ACCUMULATED,
        average_tokens_across_devices=averaged,
    )
    trainer.train_dataset = tiny_data(ROWS)
    trainer.model_accepts_loss_kwargs = counted
    trainer.train()
    return watch.sizes


def by_accelerate(accumulated: int) -> list[float]:
    """Train two epochs with ``batch_size='accelerate'``."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulated)
    rows = torch.utils.data.DataLoader(tiny_data(ROWS), batch_size=PER_DEVICE)  # type: ignore[arg-type]
    model = tiny_model()
    optimizer = gap_hf.RFRMSprop(model.parameters(), lr=1e-3, batch_size="accelerate")
    model, optimizer, rows = accelerator.prepare(model, optimizer, rows)
    sizes = []
    for _ in range(2):
        for batch in rows:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                sizes.append(find_gap_optimizer(optimizer).param_groups[0]["last_batch_size"])
    return sizes


def everything(out: Path) -> dict[str, list[float]]:
    """All of these runs."""
    return {
        "averaged": by_trainer(out / "averaged", averaged=True, counted=True),
        "apart": by_trainer(out / "apart", averaged=False, counted=True),
        "uncounted": by_trainer(out / "uncounted", averaged=True, counted=False),
        **{f"accelerate_{n}": by_accelerate(n) for n in (1, ACCUMULATED)},
    }


if __name__ == "__main__":
    out = Path(sys.argv[1])
    found = everything(out)
    (out / f"{Accelerator().process_index}.json").write_text(json.dumps(found))
