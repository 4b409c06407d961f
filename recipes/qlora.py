"""Fine-tune a causal language model in 4 bits with LoRA (QLoRA) and a GAP optimizer. Needs an NVIDIA GPU.

    pip install bitsandbytes
    python recipes/qlora.py --model meta-llama/Llama-3.1-8B --data my_pairs.jsonl
    python recipes/qlora.py --dry_run          # on any machine: check the flags, the data and the adapter's size

The weights are NF4 with double quantisation, the computation is bfloat16, the adapter float32, as in the paper
(https://arxiv.org/abs/2305.14314). GAP updates only the adapter. --data takes rows with the columns prompt and
completion.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from common import (
    ModelArguments,
    find_model,
    load_rows,
    load_tokenizer,
    option,
    parse,
    show_result,
    stop,
    tokenize,
    train_and_save,
)
from offline import docstrings, smollm2
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

DEFAULTS = {
    "output_dir": "runs/qlora",
    "preset": "gap_adamw_llm_lora",
    "bf16": torch.cuda.is_available(),
    "gradient_checkpointing": True,
    "max_steps": 200,
}


@dataclass
class ScriptArguments(ModelArguments):
    """What TrainingArguments does not know: the model, the data, the adapter."""

    max_length: int = option(512, "in tokens; longer rows are dropped")
    lora_rank: int = option(16, "rank of the adapter")
    lora_targets: str = option("all-linear", "or a pattern of layer names")
    dry_run: bool = option(False, "load no weights and train nothing: say what would be trained, on any machine")


def load_in_4_bits(path: str, args: TrainingArguments) -> Any:
    """The model with NF4 weights, one copy on each process's GPU, ready for an adapter."""
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        path, quantization_config=quantisation, dtype=torch.bfloat16, device_map={"": args.device}
    )
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=args.gradient_checkpointing)


def main() -> None:
    """Load, train, save, show."""
    script, args = parse(ScriptArguments, DEFAULTS)
    if not script.dry_run:
        if not torch.cuda.is_available():
            stop("QLoRA needs an NVIDIA GPU: there is none. quickstart.py trains LoRA without one; see also --dry_run.")
        if importlib.util.find_spec("bitsandbytes") is None:
            stop("QLoRA needs bitsandbytes: pip install bitsandbytes")
    path = find_model(script, smollm2)
    tokenizer = load_tokenizer(path)
    rows = load_rows(script, {"prompt": str, "completion": str}, docstrings)
    train_set, eval_set = (tokenize(some, tokenizer, script.max_length) for some in rows)
    if script.dry_run:
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    else:
        model = load_in_4_bits(path, args)
    rank, targets = script.lora_rank, script.lora_targets
    model = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, lora_dropout=0.05, target_modules=targets)
    )
    if script.dry_run:
        trained, _ = model.get_nb_trainable_parameters()
        # what bitsandbytes takes: the linear layers but the output's
        layers = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in name]
        small = sum(layer.weight.numel() for layer in layers if not layer.weight.requires_grad)
        print(
            f"dry run: {path} with {small:,} weights in 4 bits, {trained:,} in the adapter, which "
            f"{args.optim.value} would train on {len(train_set)} rows for {args.max_steps} steps in {args.output_dir}"
        )
        return
    trainer = Trainer(model, args, DataCollatorForSeq2Seq(tokenizer), train_set, eval_set, processing_class=tokenizer)
    if train_and_save(trainer):
        show_result(trainer)


if __name__ == "__main__":
    main()
