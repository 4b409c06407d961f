"""TRL's own command line, ``trl sft``, with the versions that the project pins."""

from pathlib import Path

from .material import BETAS, LEARNING_RATE

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipes" / "configs"
VERSION = "1.16.0"
PINS = ["-c", str(ROOT / "constraints.txt")]
INSTALL = [
    [*PINS, "torch==2.13.0", "ninja", "setuptools", "wheel", "py-cpuinfo", "hjson", "msgpack", "einops"],
    [*PINS, "trl==1.16.0", "peft", "datasets", "transformers", "accelerate"],
    [*PINS, "--no-deps", "--no-build-isolation", "deepspeed"],
]
REFUSED: dict[str, str] = {}
ON_CPUS = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


def command(material: Path, output: Path, layout: str) -> tuple[list[str], dict[str, str]]:
    """Return the command line for a layout, and what its environment needs besides."""
    output.mkdir(parents=True, exist_ok=True)
    environment = dict(ON_CPUS)
    flags = f"""
        --model_name_or_path {material}/model --dataset_name {material / "rows"} --output_dir {output}
        --optim gap_adamw --optim_args betas={BETAS} --learning_rate {LEARNING_RATE} --lr_scheduler_type constant
        --max_steps 8 --logging_steps 1 --max_grad_norm 0 --max_length 64 --per_device_train_batch_size 2
        --use_peft --lora_r 4 --lora_target_modules all-linear --bf16 false --dtype float32
        --gradient_checkpointing false --save_strategy no --report_to none
    """.split()
    (material / "rows").mkdir(exist_ok=True)
    (material / "rows" / "train.jsonl").write_text((material / "text.jsonl").read_text())
    if layout == "one":
        flags += ["--per_device_train_batch_size", "4", "--use_cpu"]
    else:
        config = "ddp_cpu" if layout == "ddp" else layout
        flags += ["--accelerate_config", str(CONFIGS / f"{config}.yaml")]
    if layout == "ddp":
        flags += ["--use_cpu"]
    elif layout != "one":  # on CPUs accelerate turns FSDP into DDP, and finds no backend for DeepSpeed
        site = output / "site"
        site.mkdir()
        # not in the command's own process, which builds the arguments as well and has no group of processes
        lines = """
import os
if "RANK" in os.environ:
    from tests.sharding.on_cpu import take_gloo_for_an_accelerator
    take_gloo_for_an_accelerator()
"""
        (site / "sitecustomize.py").write_text(lines)
        environment |= {"ACCELERATE_TORCH_DEVICE": "cpu", "PYTHONPATH": str(site)}
        flags += ["--use_cpu", "false"]
    return ["trl", "sft", *flags], environment
