"""Fine-tune a causal language model with LoRA and a GAP optimizer in a loop of your own, with Accelerate.

    python recipes/loop.py
    accelerate launch --config_file recipes/configs/ddp.yaml recipes/loop.py --model meta-llama/Llama-3.2-1B

What Trainer does for the other recipes is written out here: the optimizer, the schedule, accumulation, clipping, the
record of the choices, checkpoints. --data takes rows with the columns prompt and completion.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from common import find_model, load_rows, load_tokenizer, option, show_report, tokenize
from datasets import Dataset
from offline import docstrings, smollm2
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, HfArgumentParser, set_seed
from transformers import get_constant_schedule_with_warmup as schedule

import gap_hf


@dataclass
class Arguments:
    """The flags."""

    model: str | None = option(None, "hub id or path; default: SmolLM2-135M-Instruct from offline.py")
    data: str | None = option(None, "hub dataset or file; default: the docstrings from offline.py")
    eval_rows: int = option(48, "rows to evaluate on (of --data: some drawn at random, the same each time)")
    output_dir: str = option("runs/loop", "where the adapter, the choices and the report go")
    learning_rate: float = option(2e-4, "after the warm-up")
    max_steps: int = option(40, "optimizer steps")
    batch_size: int = option(8, "rows per process and forward pass")
    accumulation: int = option(1, "forward passes per step")
    logging_steps: int = option(5, "steps between two logs")
    max_length: int = option(96, "in tokens; longer rows are dropped")
    lora_rank: int = option(8, "rank of the adapter")
    seed: int = option(42, "of the adapter's first weights and the rows' order")


def forever(loader: DataLoader) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader


@torch.no_grad()
def evaluate(accelerator: Accelerator, model: Any, loader: DataLoader) -> float:
    """Mean loss of the held-out batches."""
    model.eval()
    losses = [accelerator.gather_for_metrics(model(**batch).loss.reshape(1)) for batch in loader]
    model.train()
    return torch.cat(losses).mean().item()


def main() -> None:
    """Load, train, save, show."""
    flags, unknown = HfArgumentParser(Arguments).parse_args_into_dataclasses(return_remaining_strings=True)
    if unknown:
        raise SystemExit(f"Unknown on the command line: {' '.join(unknown)}. See --help.")
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), gradient_accumulation_steps=flags.accumulation)
    set_seed(flags.seed)
    path = find_model(flags, smollm2)
    tokenizer = load_tokenizer(path)
    rows = load_rows(flags, {"prompt": str, "completion": str}, docstrings)
    train_set, eval_set = (tokenize(some, tokenizer, flags.max_length) for some in rows)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="bfloat16")
    lora = LoraConfig(task_type="CAUSAL_LM", r=flags.lora_rank, lora_alpha=2 * flags.lora_rank)
    model = get_peft_model(model, lora)

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = gap_hf.GapAdamW(
        trained, lr=flags.learning_rate, betas=[(0.8, 0.999), (0.99, 0.999)], type="switch_parameter_wise"
    )
    collator = DataCollatorForSeq2Seq(tokenizer)
    train_loader: Any = DataLoader(Dataset.from_list(train_set), flags.batch_size, shuffle=True, collate_fn=collator)
    eval_loader: Any = DataLoader(Dataset.from_list(eval_set), flags.batch_size, collate_fn=collator)
    model, optimizer, train_loader, eval_loader = accelerator.prepare(model, optimizer, train_loader, eval_loader)
    # prepared, a schedule would advance once per process at every step
    scheduler = schedule(optimizer, num_warmup_steps=5)

    before = evaluate(accelerator, model, eval_loader)
    step, bar = 0, tqdm(total=flags.max_steps, disable=not accelerator.is_main_process)
    recorder = gap_hf.Recorder(optimizer, model, flags.output_dir, record=accelerator.is_main_process)
    with bar, recorder:
        for batch in islice(forever(train_loader), flags.max_steps * flags.accumulation):
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                scheduler.step()
                step += 1
                bar.update()
                recorder.add(step)
                if step % flags.logging_steps == 0:
                    accelerator.print(f"step {step}: loss {loss.item():.3f}, {recorder.summary()}")
    after = evaluate(accelerator, model, eval_loader)
    weights = accelerator.get_state_dict(model)  # every process has a part in it where they are sharded
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(flags.output_dir, state_dict=weights)
        tokenizer.save_pretrained(flags.output_dir)
        print(f"evaluation loss: {before:.3f} before training, {after:.3f} after\nsaved in: {flags.output_dir}")
        show_report(flags.output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
