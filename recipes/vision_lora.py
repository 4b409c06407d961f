"""Fine-tune an image classifier (ViT, DINOv2, ...) with LoRA and a GAP optimizer.

    python recipes/vision_lora.py                                     # DINOv2-small on handwritten digits, offline
    accelerate launch --config_file recipes/configs/ddp.yaml recipes/vision_lora.py \\
        --model google/vit-base-patch16-224-in21k --data ethz/food101 --image_size 224

--data takes a hub dataset with the columns image and label, or a directory with one folder of pictures per class.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from common import (
    ModelArguments,
    accuracy,
    count_classes,
    find_model,
    load_rows,
    option,
    parse,
    show_result,
    train_and_save,
)
from offline_images import digits, dinov2_small
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer

DEFAULTS = {
    "output_dir": "runs/vision_lora",
    "preset": "gap_adamw_vision_lora",
    "max_steps": 60,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "remove_unused_columns": False,  # the pictures become tensors only when a batch is made
    "label_names": ["labels"],
}
ATTENTION = r".*\.(query|value|q_proj|v_proj)"
"""Whatever the model calls them."""


@dataclass
class ScriptArguments(ModelArguments):
    """What TrainingArguments does not know: the model, the data, the adapter."""

    eval_rows: int = option(500, "pictures to evaluate on (of --data: some drawn at random, the same each time)")
    image_size: int = option(56, "pictures are resized to so many pixels, squared; 224 is what most models know best")
    lora_rank: int = option(16, "rank of the adapter")
    lora_targets: str = option(ATTENTION, "pattern of layer names; default: the attention's queries and values")


def collate(rows: list[dict[str, Any]], processor: Any, size: int) -> dict[str, torch.Tensor]:
    """A batch: pictures resized and normalised as the model's processor says."""
    pictures = [row["image"].convert("RGB").resize((size, size), Image.Resampling.BICUBIC) for row in rows]
    pixels = processor(pictures, return_tensors="pt", do_resize=False, do_center_crop=False)["pixel_values"]
    return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}


def main() -> None:
    """Load, train, save, show."""
    script, args = parse(ScriptArguments, DEFAULTS)
    path = find_model(script, dinov2_small)
    train_set, eval_set = load_rows(script, {"image": Image.Image, "label": int}, digits)
    processor = AutoImageProcessor.from_pretrained(path)
    torch.manual_seed(args.seed)  # before the adapter's and the classifier's first weights are drawn
    model = AutoModelForImageClassification.from_pretrained(
        path, num_labels=count_classes(train_set), ignore_mismatched_sizes=True
    )
    model = get_peft_model(
        model,
        # the new classifier is trained as a whole, and saved with the adapter
        LoraConfig(
            r=script.lora_rank,
            lora_alpha=script.lora_rank,
            target_modules=script.lora_targets,
            modules_to_save=["classifier"],
        ),
    )
    trainer = Trainer(
        model,
        args,
        partial(collate, processor=processor, size=script.image_size),
        train_set,
        eval_set,
        processing_class=processor,
        compute_metrics=accuracy,
    )
    if train_and_save(trainer):
        model.config.save_pretrained(args.output_dir)  # the classes, which PEFT leaves out
        show_result(trainer)


if __name__ == "__main__":
    main()
