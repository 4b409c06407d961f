"""Fine-tune a causal language model with LoRA and a GAP optimizer, through the ordinary Trainer.

    python recipes/quickstart.py                                                     # one process
    accelerate launch --config_file recipes/configs/ddp.yaml recipes/quickstart.py --expect_world_size 2
    python recipes/quickstart.py --optim adamw_torch_fused --output_dir runs/adamw   # the same with AdamW

recipes/configs/ has a file for every layout (FSDP, ZeRO, ...), and every TrainingArguments flag works.
Without --model and --data the recipe needs no network: see offline.py.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import load_dataset
from offline import Row, docstrings, smollm2
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

# importing gap_hf is what makes --optim gap_adamw known to Trainer
from gap_hf.report.plot import plot_run, shares
from gap_hf.trainer.callback import find_gap_optimizer
from gap_hf.trainer.record import read_choices

DEFAULTS = {
    "output_dir": "runs/quickstart",
    "optim": "gap_adamw",
    "learning_rate": 2e-4,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 5,
    "max_steps": 80,
    "logging_steps": 5,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "eval_on_start": True,
    "report_to": "none",
    "use_cpu": not torch.accelerator.is_available(),  # several processes do not hear it from accelerate
}


def option(default: Any, text: str) -> Any:
    """A command line option with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass
class ScriptArguments:
    """What TrainingArguments does not know: the model, the data, the adapter."""

    model: str | None = option(None, "hub id or path; default: SmolLM2-135M-Instruct from offline.py")
    data: str | None = option(
        None,
        "a .jsonl file or hub dataset with text columns prompt and completion; default: the docstrings from offline.py",
    )
    dtype: str = option(
        "bfloat16", "of the model's weights: bfloat16, float32, ... (PEFT keeps the adapter in float32)"
    )
    max_length: int = option(96, "in tokens; longer rows are dropped")
    eval_rows: int = option(48, "rows to evaluate on (of --data: the last ones)")
    lora_rank: int = option(8, "rank of the adapter; 0: no adapter, train all weights (with --dtype float32)")
    lora_targets: str | None = option(None, "all-linear, or a pattern of layer names; default: PEFT's choice")
    expect_world_size: int | None = option(None, "stop unless so many processes train together")


def load_rows(script: ScriptArguments) -> tuple[list[Row], list[Row]]:
    """(train, eval) rows with the columns `prompt` and `completion`."""
    if script.data is None:
        train, held_out = docstrings()
        return train, held_out[: script.eval_rows]
    if script.data.endswith((".json", ".jsonl")) and not Path(script.data).is_file():
        raise SystemExit(f"--data {script.data}: there is no such file.")
    source = {"path": "json", "data_files": script.data} if Path(script.data).is_file() else {"path": script.data}
    rows = list(load_dataset(**source, split="train"))
    if not all(isinstance(row.get(name), str) for row in rows for name in ("prompt", "completion")):
        raise SystemExit(f"Every row of {script.data} must have the text columns prompt and completion.")
    if len(rows) <= script.eval_rows:
        raise SystemExit(f"--eval_rows {script.eval_rows} leaves none of the {len(rows)} rows to train on.")
    return rows[: -script.eval_rows], rows[-script.eval_rows :]


def tokenize(rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict[str, Any]]:
    """Token ids, and labels in which the prompt is masked: the loss is that of the completion alone."""
    examples = []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        completion.append(tokenizer.eos_token_id)
        if len(prompt) + len(completion) <= max_length:
            examples.append({"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion})
    return examples


@torch.no_grad()
def complete(model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """What the model writes after `prompt`, always taking the likeliest token."""
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    output = model.generate(**inputs, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def save_adapter(trainer: Trainer) -> None:
    """Write the weights that save_model() misses under FSDP1: peft 0.21 looks for them by its wrappers' names."""
    whole = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.args.process_index == 0:
        weights = {name.replace(".default.", "."): w.contiguous() for name, w in whole.items() if "lora_" in name}
        save_file(weights, Path(trainer.args.output_dir) / "adapter_model.safetensors")


def main(command_line: list[str] | None = None, callbacks: list[TrainerCallback] | None = None) -> None:
    """Load, train, save, load what was saved, show."""
    parser = HfArgumentParser((ScriptArguments, TrainingArguments))
    parser.set_defaults(**DEFAULTS)
    script, args = parser.parse_args_into_dataclasses(command_line)
    first = args.process_index == 0
    say = print if first else (lambda *_, **__: None)

    say(f"{args.world_size} process(es), optimizer {args.optim.value}, device {args.device}", flush=True)
    launched = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if args.world_size != (expected := script.expect_world_size or launched):
        raise SystemExit(
            f"Trainer sees {args.world_size} process(es), not {expected}: check the launch command. "
            "On the CPU, `accelerate launch --cpu --num_processes 2` starts only one, "
            "and several train together only with --use_cpu true."
        )
    with args.main_process_first():  # one process converts, the others then find the model converted
        path = script.model or str(smollm2())
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    torch.manual_seed(args.seed)  # before the adapter's first weights are drawn
    model = AutoModelForCausalLM.from_pretrained(path, dtype=script.dtype)
    if (rank := script.lora_rank) > 0:
        lora = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=script.lora_targets)
        model = get_peft_model(model, lora)
    train_rows, eval_rows = load_rows(script)
    train_set, eval_set = (tokenize(rows, tokenizer, script.max_length) for rows in (train_rows, eval_rows))
    numbers = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)  # as ZeRO 3 counts
    say(f"{len(train_set)} rows to train on, {len(eval_set)} to evaluate on; {numbers:,} parameters to train")
    collator = DataCollatorForSeq2Seq(tokenizer)
    trainer = Trainer(model, args, collator, train_set, eval_set, processing_class=tokenizer, callbacks=callbacks)
    fsdp = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    peft_loses_it = fsdp is not None and fsdp.fsdp_version == 1 and rank > 0
    if peft_loses_it and args.resume_from_checkpoint:
        raise SystemExit("Under FSDP1 peft 0.21 leaves the adapter out of checkpoints: resume under FSDP2 instead.")
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    metrics = trainer.evaluate()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    trainer.save_metrics("eval", {"eval_loss_before": losses[0], **metrics})
    trainer.save_state()
    if fsdp is not None:  # save_model() writes nothing from sharded state dicts
        fsdp.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()
    if peft_loses_it:
        save_adapter(trainer)
    # a process that leaves the group while another still uses it can abort that one
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
    if not first:
        return

    # the trained model may lie in pieces on all processes: load it as its user would
    unset_hf_deepspeed_config()  # which has from_pretrained() cut up this one, too
    sample = min(eval_rows, key=lambda row: len(row["prompt"]))
    print(f"\nheld-out prompt:\n{sample['prompt']}\n")
    print("reference:        ", sample["completion"].strip())
    for when, source in (("before training:  ", path), ("after training:   ", args.output_dir)):
        model = AutoModelForCausalLM.from_pretrained(source, dtype=script.dtype).to(args.device)
        print(when, complete(model, tokenizer, sample["prompt"]))
    print(f"\nevaluation loss:   {losses[0]:.3f} before training, {losses[-1]:.3f} after")
    print(f"saved in:          {args.output_dir}")
    optimizer = find_gap_optimizer(trainer.optimizer)
    if optimizer is not None and optimizer.type != "default":
        for candidate, share in shares(read_choices(args.output_dir)).items():
            print(f"GAP applied {candidate} in {share:.1%} of all choices")
        for figure in plot_run(args.output_dir):
            print(f"figure:            {figure}")


if __name__ == "__main__":
    main()
