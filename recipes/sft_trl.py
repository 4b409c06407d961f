"""Fine-tune a causal language model with LoRA, a GAP optimizer and TRL's SFTTrainer.

    python recipes/sft_trl.py
    accelerate launch --config_file recipes/configs/ddp.yaml recipes/sft_trl.py --model meta-llama/Llama-3.2-1B

All of SFTConfig's flags work (--packing, --assistant_only_loss, ...). --data takes rows with the columns prompt and
completion. Without --model and --data the recipe needs no network: see offline.py.
"""

from dataclasses import dataclass

import torch
from common import ModelArguments, find_model, load_rows, load_tokenizer, option, parse, show_result, train_and_save
from datasets import Dataset
from offline import docstrings, smollm2
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

DEFAULTS = {
    "output_dir": "runs/sft_trl",
    "preset": "gap_adamw_llm_lora",
    "max_steps": 40,
    "max_length": 96,
    "bf16": torch.cuda.is_available(),  # SFTConfig's own default is to compute in bfloat16 everywhere
    "gradient_checkpointing": False,
}


@dataclass
class ScriptArguments(ModelArguments):
    """What SFTConfig does not know: the model, the data, the adapter."""

    dtype: str = option("bfloat16", "of the model's weights (PEFT keeps the adapter in float32)")
    lora_rank: int = option(8, "rank of the adapter")
    lora_targets: str | None = option(None, "all-linear, or a pattern of layer names; default: PEFT's choice")


def main() -> None:
    """Load, train, save, show."""
    script, args = parse(ScriptArguments, DEFAULTS, training=SFTConfig)
    path = find_model(script, smollm2)
    tokenizer = load_tokenizer(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=script.dtype)
    rank = script.lora_rank
    lora = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=script.lora_targets)
    train_set, eval_set = (
        rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
        for rows in load_rows(script, {"prompt": str, "completion": str}, docstrings)
    )
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=train_set,
        eval_dataset=eval_set,
        processing_class=tokenizer,
        peft_config=lora,
    )
    if train_and_save(trainer):
        show_result(trainer)


if __name__ == "__main__":
    main()
