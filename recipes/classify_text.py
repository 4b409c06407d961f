"""Fine-tune a text classifier with LoRA and a GAP optimizer.

    python recipes/classify_text.py                 # MiniLM on docstrings: which library are they from? offline
    accelerate launch --config_file recipes/configs/ddp.yaml recipes/classify_text.py \\
        --model FacebookAI/roberta-base --data stanfordnlp/imdb --max_length 256

--data takes a .jsonl, .csv or .parquet file or a hub dataset with the columns text and label.
"""

from dataclasses import dataclass

import torch
from common import ModelArguments, accuracy, find_model, load_rows, option, parse, show_result, train_and_save
from offline import minilm, topics
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer

DEFAULTS = {
    "output_dir": "runs/classify_text",
    "preset": "gap_adamw_llm_lora",
    "learning_rate": 5e-3,  # for MiniLM; a model of usual size wants 1e-3 or less
    "max_steps": 150,
    "logging_steps": 10,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
}


@dataclass
class ScriptArguments(ModelArguments):
    """What TrainingArguments does not know: the model, the data, the adapter."""

    eval_rows: int = option(400, "rows to evaluate on (of --data: some drawn at random, the same each time)")
    max_length: int = option(128, "in tokens; longer texts are cut")
    lora_rank: int = option(8, "rank of the adapter")
    lora_targets: str | None = option(None, "all-linear, or a pattern of layer names; default: PEFT's choice")


def main() -> None:
    """Load, train, save, show."""
    script, args = parse(ScriptArguments, DEFAULTS)
    path = find_model(script, minilm)
    tokenizer = AutoTokenizer.from_pretrained(path)
    train_rows, eval_rows = load_rows(script, {"text": str, "label": (int, str)}, topics)
    names = sorted({row["label"] for row in train_rows} | {row["label"] for row in eval_rows})
    sets = [
        [
            {
                **tokenizer(row["text"], truncation=True, max_length=script.max_length),
                "labels": names.index(row["label"]),
            }
            for row in rows
        ]
        for rows in (train_rows, eval_rows)
    ]
    torch.manual_seed(args.seed)  # before the adapter's and the classifier's first weights are drawn
    model = AutoModelForSequenceClassification.from_pretrained(
        path, id2label={i: str(name) for i, name in enumerate(names)}, label2id={str(n): i for i, n in enumerate(names)}
    )
    # "SEQ_CLS" has PEFT train the new classifier as a whole, and save it with the adapter
    rank = script.lora_rank
    lora = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, target_modules=script.lora_targets)
    trainer = Trainer(
        get_peft_model(model, lora),
        args,
        DataCollatorWithPadding(tokenizer),
        *sets,
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    if train_and_save(trainer):
        model.config.save_pretrained(args.output_dir)  # the classes, which PEFT leaves out
        show_result(trainer)


if __name__ == "__main__":
    main()
