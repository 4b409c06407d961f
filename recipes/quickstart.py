"""Fine-tune a causal language model with LoRA and a GAP optimizer, through the ordinary Trainer.

    python recipes/quickstart.py                                                # one process
    accelerate launch --config_file recipes/configs/ddp_cpu.yaml recipes/quickstart.py --expect_world_size 2
    python recipes/quickstart.py --optim adamw_torch_fused --output_dir runs/adamw     # the same with AdamW

Every TrainingArguments flag works. Without --model and --data the recipe needs no network: see offline.py.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from offline import docstrings, smollm2
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, HfArgumentParser,
                          PreTrainedTokenizerBase, Trainer, TrainingArguments)

import gap_hf  # noqa: F401  (importing it is what makes --optim gap_adamw known to Trainer)

DEFAULTS = {
    "optim": "gap_adamw", "output_dir": "runs/quickstart", "learning_rate": 2e-4, "max_steps": 40,
    "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "logging_steps": 5, "report_to": "none",
    "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 4,
    "use_cpu": not torch.accelerator.is_available(),  # accelerate does not pass its use_cpu on to several processes
}
Row = dict[str, str]


@dataclass
class ScriptArguments:
    """What TrainingArguments does not know: the model, the data, the adapter."""

    model: str | None = field(default=None, metadata={"help": "hub id or path; default: the offline SmolLM2-135M"})
    data: str | None = field(default=None, metadata={"help": "a .jsonl file or a hub dataset with the text columns "
                                                             "prompt and completion; default: offline docstrings"})
    dtype: str = field(default="bfloat16", metadata={"help": "of the frozen weights: bfloat16, float32, ..."})
    max_length: int = field(default=96, metadata={"help": "in tokens; longer rows are dropped"})
    eval_rows: int = field(default=48, metadata={"help": "rows to evaluate on (of --data: its last ones)"})
    lora_rank: int = field(default=8, metadata={"help": "rank of the adapter"})
    lora_targets: list[str] | None = field(default=None, metadata={"help": "layers to adapt; default: PEFT's choice"})
    expect_world_size: int | None = field(default=None, metadata={"help": "stop unless so many processes started"})


def load_rows(script: ScriptArguments) -> tuple[list[Row], list[Row]]:
    """(train, eval) rows with the columns `prompt` and `completion`."""
    if script.data is None:
        train, held_out = docstrings()
        return train, held_out[:script.eval_rows]
    if Path(script.data).is_file():
        rows = [json.loads(line) for line in Path(script.data).read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        from datasets import load_dataset
        rows = list(load_dataset(script.data, split="train"))
    if not all(isinstance(row.get(key), str) for row in rows for key in ("prompt", "completion")):
        raise SystemExit(f"Every row of {script.data} must have the text columns 'prompt' and 'completion'.")
    if len(rows) <= script.eval_rows:
        raise SystemExit(f"{script.data} has {len(rows)} rows, and --eval_rows {script.eval_rows} leaves none to train on.")
    return rows[:-script.eval_rows], rows[-script.eval_rows:]


def tokenize(rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict[str, list[int]]]:
    """Token ids with the prompt masked out of the labels, so that the loss is that of the completion alone."""
    examples = []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        if len(prompt) + len(completion) <= max_length:
            ids = prompt + completion
            examples.append({"input_ids": ids, "attention_mask": [1] * len(ids),
                             "labels": [-100] * len(prompt) + completion})
    return examples


@torch.no_grad()
def complete(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """What the model writes after `prompt`, always taking the likeliest token."""
    model.eval()
    inputs = tokenizer(prompt, return_tensors="pt").to(next(model.parameters()).device)
    output = model.generate(**inputs, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip()


def main() -> None:
    """Load, show, train, show again, save, load what was saved."""
    parser = HfArgumentParser((ScriptArguments, TrainingArguments))
    parser.set_defaults(**DEFAULTS)
    script, args = parser.parse_args_into_dataclasses()
    first = args.process_index == 0
    say = print if first else (lambda *_, **__: None)

    launched = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    say(f"{args.world_size} process(es), optimizer {args.optim.value}, device {args.device}", flush=True)
    if args.world_size != (script.expect_world_size or launched):
        raise SystemExit(f"Trainer sees {args.world_size} process(es), expected are {script.expect_world_size or launched}: "
                         "check the launch command. (`accelerate launch --cpu --num_processes 2` starts one; several "
                         "processes without a GPU need --use_cpu true, or each trains alone.)")

    with args.main_process_first(desc="the model directory"):  # one process converts, the others find it converted
        path = script.model or str(smollm2())
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    torch.manual_seed(args.seed)  # before the adapter's first weights are drawn
    base = AutoModelForCausalLM.from_pretrained(path, dtype=script.dtype)
    lora = LoraConfig(task_type="CAUSAL_LM", r=script.lora_rank, lora_alpha=2 * script.lora_rank,
                      target_modules=script.lora_targets)
    model = get_peft_model(base, lora)

    train_rows, eval_rows = load_rows(script)
    train_set, eval_set = (tokenize(rows, tokenizer, script.max_length) for rows in (train_rows, eval_rows))
    say(f"{len(train_set)} rows to train on, {len(eval_set)} to evaluate on (at most {script.max_length} tokens); "
        f"{model.num_parameters(only_trainable=True):,} of {model.num_parameters():,} parameters are trained")
    trainer = Trainer(model=model, args=args, train_dataset=train_set, eval_dataset=eval_set,
                      data_collator=DataCollatorForSeq2Seq(tokenizer), processing_class=tokenizer)

    sample = eval_rows[0]
    before = trainer.evaluate()["eval_loss"]
    written_before = complete(model, tokenizer, sample["prompt"]) if first else ""
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", {"eval_loss_before": before, **metrics})
    trainer.save_state()
    trainer.save_model()
    if not first:
        return

    reloaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path, dtype=script.dtype), args.output_dir)
    print(f"\nheld-out prompt:\n{sample['prompt']}\n")
    print("reference answer: ", sample["completion"].strip())
    print("before training:  ", written_before)
    print("after training:   ", complete(model, tokenizer, sample["prompt"]))
    print("adapter reloaded: ", complete(reloaded, tokenizer, sample["prompt"]))
    print(f"\nevaluation loss:    {before:.3f} before, {metrics['eval_loss']:.3f} after {trainer.state.global_step} steps")
    print(f"adapter:            {args.output_dir}")
    if args.optim.value.startswith("gap_"):
        from gap_hf.report.plot import plot_run
        for figure in plot_run(args.output_dir):
            print(f"figure:             {figure}")


if __name__ == "__main__":
    main()
