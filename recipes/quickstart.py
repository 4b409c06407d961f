"""Fine-tune a causal language model with LoRA and a GAP optimizer, through the ordinary Trainer.

    python recipes/quickstart.py                                                     # one process
    accelerate launch --config_file recipes/configs/ddp.yaml recipes/quickstart.py --expect_world_size 2
    python recipes/quickstart.py --optim adamw_torch_fused --output_dir runs/adamw   # the same with AdamW

recipes/configs/ has a file for every layout (FSDP, ZeRO, ...), and every TrainingArguments flag works.
Without --model and --data the recipe needs no network: see offline.py.
"""

from dataclasses import dataclass
from typing import Any

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
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

DEFAULTS = {
    "output_dir": "runs/quickstart",
    "preset": "gap_adamw_llm_lora",
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 5,
    "max_steps": 80,
}


@dataclass
class ScriptArguments(ModelArguments):
    """What TrainingArguments does not know: the model, the data, the adapter."""

    dtype: str = option("bfloat16", "of the model's weights (PEFT keeps the adapter in float32)")
    max_length: int = option(96, "in tokens; longer rows are dropped")
    lora_rank: int = option(8, "rank of the adapter; full_finetune.py does without one")
    lora_targets: str | None = option(None, "all-linear, or a pattern of layer names; default: PEFT's choice")


@torch.no_grad()
def complete(model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """What the model writes after `prompt`, always taking the likeliest token."""
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    output = model.generate(**inputs, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def main(command_line: list[str] | None = None, callbacks: list[TrainerCallback] | None = None) -> None:
    """Load, train, save, load what was saved, show."""
    script, args = parse(ScriptArguments, DEFAULTS, command_line)
    path = find_model(script, smollm2)
    tokenizer = load_tokenizer(path)
    torch.manual_seed(args.seed)  # before the adapter's first weights are drawn
    model = AutoModelForCausalLM.from_pretrained(path, dtype=script.dtype)
    rank = script.lora_rank
    lora = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=script.lora_targets)
    model = get_peft_model(model, lora)
    train_rows, eval_rows = load_rows(script, {"prompt": str, "completion": str}, docstrings)
    train_set, eval_set = (tokenize(rows, tokenizer, script.max_length) for rows in (train_rows, eval_rows))
    collator = DataCollatorForSeq2Seq(tokenizer)
    trainer = Trainer(model, args, collator, train_set, eval_set, processing_class=tokenizer, callbacks=callbacks)
    if not train_and_save(trainer):
        return

    # the trained model may lie in pieces on all processes: load it as its user would
    unset_hf_deepspeed_config()  # which has from_pretrained() cut up this one, too
    sample = min(eval_rows, key=lambda row: len(row["prompt"]))
    print(f"\nheld-out prompt:\n{sample['prompt']}\n")
    print("reference:        ", sample["completion"].strip())
    for when, source in (("before training:  ", path), ("after training:   ", args.output_dir)):
        model = AutoModelForCausalLM.from_pretrained(source, dtype=script.dtype).to(args.device)
        print(when, complete(model, tokenizer, sample["prompt"]))
    show_result(trainer)


if __name__ == "__main__":
    main()
