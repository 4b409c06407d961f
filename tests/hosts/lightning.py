"""Lightning: a program as its users write it, with ``gap_hf.GapAdamW`` in ``configure_optimizers``."""

from pathlib import Path

VERSION = "2.6.6"
INSTALL = [
    ["torch==2.13.0", "hatchling", "wheel", "setuptools<81", "ninja"],
    ["lightning==2.6.6", "torch==2.13.0", "transformers==5.19.0", "peft==0.20.0", "accelerate==1.15.0"],
    ["py-cpuinfo", "hjson", "msgpack", "einops"],
    ["--no-deps", "--no-build-isolation", "deepspeed==0.19.8"],
]
"""Arguments of ``pip install``, in this order; ``DS_ACCELERATOR=cpu`` is set meanwhile."""

REFUSED = dict.fromkeys(("zero2", "zero3"), "The DeepSpeed strategy is only supported on CUDA GPUs")
"""Layouts that can't run, with a pattern of the error that the user sees."""


def command(material: Path, output: Path, layout: str) -> tuple[list[str], dict[str, str]]:
    """Return a command line, and what it needs in the environment, for 8 steps of LoRA in float32."""
    output.mkdir(parents=True, exist_ok=True)
    program = Path(__file__).with_name("programs") / "lightning_fit.py"  # a folder away from this "lightning"
    environment = {
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    arguments = [str(program), str(material / "model"), str(material / "text.jsonl"), str(output), layout]
    return ["python", *arguments], environment
