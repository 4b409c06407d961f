"""Train a small ResNet from scratch with GAP's SGD with momentum, in place of an SGD baseline.

    python recipes/sgd_images.py                                                   # handwritten digits, offline
    python recipes/sgd_images.py --optim_args type=default,momentum=0.9 --output_dir runs/sgd     # torch's SGD
    accelerate launch --config_file recipes/configs/ddp.yaml recipes/sgd_images.py --data ylecun/mnist

--data takes a hub dataset with the columns image and label, or a directory with one folder per class.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from common import RecipeArguments, accuracy, count_classes, load_rows, option, parse, show_result, train_and_save
from offline_images import digits
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, Trainer

DEFAULTS = {
    "output_dir": "runs/sgd_images",
    "preset": "gap_sgdm_baseline",
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 4,
    "logging_steps": 10,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 250,
    "eval_strategy": "epoch",
    "remove_unused_columns": False,  # the pictures become tensors only when a batch is made
    "label_names": ["labels"],
}


@dataclass
class ScriptArguments(RecipeArguments):
    """What TrainingArguments does not know: the data and the network's size."""

    eval_rows: int = option(500, "pictures to evaluate on (of --data: some drawn at random, the same each time)")
    image_size: int = option(28, "pictures are resized to so many pixels, squared")
    width: int = option(16, "channels of the first stage; the next two have twice and four times as many")


def collate(rows: list[dict[str, Any]], size: int) -> dict[str, torch.Tensor]:
    """A batch of pictures with values from -1 to 1."""
    pictures = [np.array(row["image"].convert("RGB").resize((size, size))) for row in rows]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}


def main() -> None:
    """Load, train, save, show."""
    script, args = parse(ScriptArguments, DEFAULTS)
    train_set, eval_set = load_rows(script, {"image": Image.Image, "label": int}, digits)
    torch.manual_seed(args.seed)  # before the first weights are drawn
    network = ResNetConfig(
        num_labels=count_classes(train_set),
        embedding_size=script.width,
        hidden_sizes=[script.width, 2 * script.width, 4 * script.width],
        depths=[2, 2, 2],
        layer_type="basic",
    )
    trainer = Trainer(
        ResNetForImageClassification(network),
        args,
        partial(collate, size=script.image_size),
        train_set,
        eval_set,
        compute_metrics=accuracy,
    )
    if train_and_save(trainer):
        show_result(trainer)


if __name__ == "__main__":
    main()
