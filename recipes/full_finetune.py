"""Fine-tune all weights of a causal language model with a GAP optimizer, sharded over several GPUs.

    accelerate launch --config_file recipes/configs/fsdp2.yaml recipes/full_finetune.py --model Qwen/Qwen3-1.7B
    accelerate launch --config_file recipes/configs/zero3.yaml recipes/full_finetune.py --model Qwen/Qwen3-1.7B

The weights and GAP's buffers are float32; on GPUs the computation is bfloat16. With two candidates the state takes 12
bytes per weight, or 8 with --optim_args state_dtype=bfloat16 (AdamW: 8), divided among the GPUs. --data takes rows with
the columns prompt and completion. Without --model and --data the recipe needs no network: see offline.py.
"""

from dataclasses import dataclass

import torch
from common import (
    ModelArguments,
    find_model,
    load_rows,
    load_tokenizer,
    option,
    parse,
    show_result,
    tokenize,
    train_and_save,
)
from offline import docstrings, smollm2
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer

DEFAULTS = {
    "output_dir": "runs/full_finetune",
    "preset": "gap_adamw_llm_lora",
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 5,
    "max_grad_norm": 1.0,
    "bf16": torch.cuda.is_available(),
    "max_steps": 40,
}


@dataclass
class ScriptArguments(ModelArguments):
    """What TrainingArguments does not know: the model and the data."""

    max_length: int = option(96, "in tokens; longer rows are dropped")


def main() -> None:
    """Load, train, save, show."""
    script, args = parse(ScriptArguments, DEFAULTS)
    path = find_model(script, smollm2)
    tokenizer = load_tokenizer(path)
    rows = load_rows(script, {"prompt": str, "completion": str}, docstrings)
    train_set, eval_set = (tokenize(some, tokenizer, script.max_length) for some in rows)
    # after TrainingArguments: under ZeRO 3 they have every process load only its part
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    trainer = Trainer(model, args, DataCollatorForSeq2Seq(tokenizer), train_set, eval_set, processing_class=tokenizer)
    if train_and_save(trainer):
        show_result(trainer)


if __name__ == "__main__":
    main()
