"""What the recipes share: flags and presets, rows of text, launch checks, saving, the report at the end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset, load_dataset
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, EvalPrediction, HfArgumentParser, Trainer, TrainingArguments

import gap_hf  # makes --optim gap_adamw known to Trainer
from gap_hf.choices.format import FILENAME
from gap_hf.report.run import choices_of, read_run
from gap_hf.report.summary import shares
from gap_hf.report.write import plot_run

Row = dict[str, Any]
PRESETS = [name for name, preset in gap_hf.trainer.presets.PRESETS.items() if preset.recommended]
MIXES = ["gap_adamw_mix", "gap_sgdm_mix"]
"""They take the learning rate and the decay that the recipe has without them."""


def option(default: Any, text: str) -> Any:
    """A command line option with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass
class RecipeArguments:
    """What every recipe takes beside TrainingArguments' flags."""

    data: str | None = option(None, "hub dataset or file; default: what offline.py finds on this machine")
    preset: str | None = option(
        None,
        f"a recommended optimizer, learning rate and decay; flags for these win: {', '.join(PRESETS)}; or a mix, "
        f"with the recipe's own learning rate and decay: {', '.join(MIXES)}",
    )
    eval_rows: int = option(48, "rows to evaluate on (of --data: some drawn at random, the same each time)")
    expect_world_size: int | None = option(None, "stop unless so many processes train together")


@dataclass
class ModelArguments(RecipeArguments):
    """The same for those that start from a pretrained model."""

    model: str | None = option(None, "hub id or path; default: a small pretrained one from offline.py")


def parse(
    arguments: type[RecipeArguments],
    defaults: dict[str, Any],
    command_line: Sequence[str] | None = None,
    training: type[TrainingArguments] = TrainingArguments,
) -> tuple[Any, Any]:
    """(script arguments, training arguments) of the command line, checked.

    Args:
        arguments: the recipe's own flags.
        defaults: of any flag, where TrainingArguments has another one; ``preset`` among them.
        command_line: ``sys.argv`` by default.
        training: ``TrainingArguments``, or a trainer's own.
    """
    parser = HfArgumentParser((arguments, training))
    parser.set_defaults(report_to="none", logging_steps=5, eval_on_start=True)
    # Trainer's default has DDP search for unused parameters at every step, and warn: here each takes part in each step
    parser.set_defaults(ddp_find_unused_parameters=False)
    # several processes do not hear it from accelerate that there is no accelerator
    parser.set_defaults(use_cpu=not torch.accelerator.is_available())
    asked_for = parser.parse_known_args(command_line)[0].preset
    own = gap_hf.recommended(defaults["preset"])
    if asked_for in MIXES:
        preset = {**own, **{key: value for key, value in defaults.items() if key in own}, "optim": asked_for}
    else:
        try:
            preset = gap_hf.recommended(asked_for) if asked_for else own
        except ValueError as error:
            raise SystemExit(f"--preset {error}") from None
    # the recipe knows better than the preset that it names itself, the user's knows better than the recipe
    parser.set_defaults(**{**defaults, **preset, "preset": asked_for} if asked_for else {**preset, **defaults})
    script, args, unknown = parser.parse_args_into_dataclasses(command_line, return_remaining_strings=True)
    if unknown:
        raise SystemExit(f"Unknown on the command line: {' '.join(unknown)}. See --help.")
    launched = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if args.world_size != (expected := script.expect_world_size or launched):
        stop(
            f"Trainer sees {args.world_size} process(es), not {expected}: check the launch command. "
            "On the CPU, `accelerate launch --cpu --num_processes 2` starts only one, "
            "and several train together only with --use_cpu true."
        )
    return script, args


def stop(message: str) -> None:
    """End with one line, said once, and status 1."""
    raise SystemExit(message if PartialState().is_main_process else 1)


def find_model(script: Any, default: Callable[[], Path]) -> str:
    """Where the model is; what `default` says where --model is not given."""
    if script.model is None:
        with PartialState().local_main_process_first():  # it converts, the others then find the model converted
            return str(default())
    path = Path(script.model).expanduser()
    if script.model.startswith((".", "/", "~")) and not path.is_dir():
        stop(f"--model {script.model}: there is no such directory.")
    source = str(path) if path.is_dir() else script.model
    try:
        AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        stop(f"--model {script.model}: {str(error).splitlines()[0]}")
    return source


def load_tokenizer(path: str) -> Any:
    """The model's tokenizer, with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def load_rows(
    script: Any, columns: dict[str, Any], default: Callable[[], tuple[list[Row], list[Row]]]
) -> tuple[Any, Any]:
    """(train, eval) rows of --data, a file or hub dataset that must have `columns`; what `default` says without it."""
    if script.data is None:
        train, held_out = default()
        return train, held_out[: script.eval_rows]
    path = Path(script.data)
    formats = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
    if path.suffix in formats and not path.is_file():
        stop(f"--data {script.data}: there is no such file.")
    if path.is_file():
        source = {"path": formats.get(path.suffix, "text"), "data_files": script.data}
    elif path.is_dir():
        source = {"path": "imagefolder", "data_dir": script.data}
    else:
        source = {"path": script.data}
    try:
        rows = load_dataset(**source, split="train")
    except Exception as error:  # datasets has a dozen ways to say that there is nothing
        stop(f"--data {script.data}: {str(error).splitlines()[0]}")
    wrong = [
        name
        for name, kind in columns.items()
        if name not in rows.column_names or rows.data.column(name).null_count or not isinstance(rows[0][name], kind)
    ]
    if wrong:
        names, bad = ", ".join(columns), ", ".join(wrong)
        stop(f"--data {script.data}: it must have the columns {names}; wrong or missing: {bad}.")
    if len(rows) <= script.eval_rows:
        stop(f"--eval_rows {script.eval_rows} leaves none of the {len(rows)} rows to train on.")
    rows = rows.shuffle(seed=0)  # many files are sorted by class
    split = len(rows) - script.eval_rows
    return rows.select(range(split)), rows.select(range(split, len(rows)))


def tokenize(rows: Any, tokenizer: Any, max_length: int) -> list[Row]:
    """Token ids of prompts and completions; the prompt is masked in the labels: the loss is the completion's alone."""
    examples = []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        completion.append(tokenizer.eos_token_id)
        if len(prompt) + len(completion) <= max_length:
            examples.append({"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion})
    if not examples:
        stop(f"No row has at most {max_length} tokens; see --max_length.")
    return examples


def count_classes(rows: Any) -> int:
    """How many classes the column `label` numbers."""
    return 1 + max(rows["label"] if isinstance(rows, Dataset) else (row["label"] for row in rows))


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of rows whose likeliest class is the right one."""
    return {"accuracy": float((prediction.predictions.argmax(axis=-1) == prediction.label_ids).mean())}


def describe(trainer: Trainer) -> None:
    """Say once what is about to be trained."""
    if trainer.args.process_index:
        return
    # as ZeRO 3 counts, where it holds a parameter in pieces
    numbers = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters() if p.requires_grad)
    print(
        f"{trainer.args.world_size} process(es), optimizer {trainer.args.optim.value}, device {trainer.args.device}\n"
        f"{len(trainer.train_dataset)} rows to train on, {len(trainer.eval_dataset)} to evaluate on; "
        f"{numbers:,} parameters to train",
        flush=True,
    )


def train_and_save(trainer: Trainer) -> bool:
    """Train, evaluate, write the model, the log and the report into output_dir; True where the one process goes on
    that shows the result. The process group is gone then."""
    describe(trainer)
    args = trainer.args
    fsdp = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    peft_loses_it = fsdp is not None and fsdp.fsdp_version == 1 and hasattr(trainer.model, "peft_config")
    if peft_loses_it and args.resume_from_checkpoint:
        stop("Under FSDP1 peft 0.21 leaves the adapter out of checkpoints: resume under FSDP2 instead.")
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    metrics = trainer.evaluate()
    before = {"eval_loss_before": evaluations(trainer)[0]} if args.eval_on_start else {}
    trainer.save_metrics("eval", {**before, **metrics})
    trainer.save_state()
    if fsdp is not None:  # save_model() writes nothing from sharded state dicts
        fsdp.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()
    if peft_loses_it:
        save_adapter(trainer)
    # a process that leaves the group while another still uses it can abort that one
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
    return args.process_index == 0


def save_adapter(trainer: Trainer) -> None:
    """Write the weights that save_model() misses under FSDP1: peft 0.21 looks for them by its wrappers' names."""
    whole = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.args.process_index == 0:
        weights = {name.replace(".default.", "."): w.contiguous() for name, w in whole.items() if "lora_" in name}
        save_file(weights, Path(trainer.args.output_dir) / "adapter_model.safetensors")


def evaluations(trainer: Trainer) -> list[float]:
    """The evaluation losses so far."""
    return [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]


def show_result(trainer: Trainer) -> None:
    """Print the losses and what GAP chose, and draw it."""
    losses = evaluations(trainer)
    before = f"{losses[0]:.3f} before training, " if trainer.args.eval_on_start else ""
    print(f"\nevaluation loss:   {before}{losses[-1]:.3f} after")
    print(f"saved in:          {trainer.args.output_dir}")
    show_report(trainer.args.output_dir)


def show_report(output_dir: str) -> None:
    """Print what GAP chose, and draw it; nothing after a run with another optimizer."""
    if not (Path(output_dir) / FILENAME).is_file():
        return
    run = read_run(output_dir)
    choices = choices_of(run)
    for name, share in shares(choices).items():
        picked = choices.weights is None
        print(f"GAP applied {name} in {share:.1%} of all choices" if picked else f"GAP mixed {share:.1%} of {name}")
    for path in plot_run(run):
        print(f"report: {path}")
