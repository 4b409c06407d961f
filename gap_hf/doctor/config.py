"""What an accelerate config will do with a gap optimizer: exact, or refused and why.

The same as ``gap_hf.sharding`` would say when the run starts, as far as the file tells.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

from .finding import Finding, State

DDP = ("MULTI_GPU", "MULTI_NPU", "MULTI_XPU", "MULTI_MLU", "MULTI_SDAA", "MULTI_MUSA", "MULTI_HPU")
UNTESTED_IN_DEEPSPEED = ("zenflow", "super_offload")


def read(path: str | Path) -> ClusterConfig:
    """An accelerate config file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: accelerate can't read it, or it is one for SageMaker.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        config = load_config_from_file(str(path))
    except Exception as error:  # YAML, JSON, unknown keys, enum values: each raises its own
        raise ValueError(f"{path}: accelerate can't read it ({str(error).strip().splitlines()[0]})") from error
    if not isinstance(config, ClusterConfig):
        raise ValueError(f"{path}: a SageMaker config, which gap_hf does not know")
    return config


def judge(config: ClusterConfig) -> list[Finding]:
    """What will happen; the last line is the verdict."""
    kind = str(getattr(config.distributed_type, "value", config.distributed_type))
    processes = config.num_processes
    if kind == "NO":
        layout, found = "one process", lone(processes)
    elif kind == "MULTI_CPU":
        layout, found = "DDP", multi_cpu(config)
    elif kind in DDP:
        layout, found = "DDP", on_cpus(config)
    elif kind == "FSDP":
        layout, found = fsdp(config)
    elif kind == "DEEPSPEED":
        layout, found = deepspeed(config)
    else:
        layout, found = kind, [refused(kind, "a backend that gap_hf does not know; use DDP, FSDP or DeepSpeed ZeRO")]
    found += [*parallelism(config), *precision(config), *hardware(config, kind)]
    if any(finding.state is State.BAD for finding in found):
        return [*found, refused("verdict", f"{layout}: will be refused, or is not what you asked for")]
    count = f", {processes} processes" if kind != "NO" else ""
    return [*found, Finding("verdict", State.GOOD, f"{layout}{count}: exact, the choices of one process")]


def refused(what: str, why: str) -> Finding:
    """What stands in the way."""
    return Finding(what, State.BAD, why)


def note(what: str, text: str) -> Finding:
    """What to know."""
    return Finding(what, State.NOTE, text)


def is_true(value: Any) -> bool:
    """Of a flag as YAML or accelerate's command line has it."""
    return str(value).lower() in ("true", "1", "yes", "y", "on")


def lone(processes: int) -> list[Finding]:
    """More than one process where nothing connects them."""
    if processes > 1:
        why = f"it starts one process, not {processes}; set distributed_type: MULTI_GPU (on CPUs with use_cpu: true)"
        return [refused("distributed_type: NO", why)]
    return []


def multi_cpu(config: ClusterConfig) -> list[Finding]:
    """accelerate starts several processes for it by mpirun only (``commands/launch.py``, 1.15)."""
    if config.mpirun_config:
        return []
    why = "without mpirun_config accelerate starts one process; set distributed_type: MULTI_GPU with use_cpu: true"
    return [refused("distributed_type: MULTI_CPU", why)]


def on_cpus(config: ClusterConfig) -> list[Finding]:
    """What the script must say itself."""
    if not config.use_cpu:
        return []
    text = "the script must say so, too (Trainer: --use_cpu true), or each process trains alone, which is refused"
    return [note("use_cpu", text)]


def fsdp(config: ClusterConfig) -> tuple[str, list[Finding]]:
    """What the layout is called, and what to say of it."""
    options = config.fsdp_config
    found = []
    if config.use_cpu:
        why = (
            "on CPUs accelerate silently turns FSDP into DDP; set distributed_type: MULTI_GPU if that is what you want"
        )
        found.append(refused("use_cpu", why))
    if str(options.get("fsdp_version", 1)) == "2":
        return "FSDP2", found
    if not is_true(options.get("fsdp_use_orig_params", True)):
        why = "several parameters are merged into one and can't choose separately; set it to true, or fsdp_version: 2"
        found.append(refused("fsdp_use_orig_params: false", why))
    text = "peft 0.21 leaves adapters out of checkpoints there (with any optimizer); FSDP2 saves them"
    return "FSDP1", [*found, note("FSDP1 and LoRA", text)]


def deepspeed(config: ClusterConfig) -> tuple[str, list[Finding]]:
    """What the layout is called, and what to say of it."""
    options = dict(config.deepspeed_config)
    found = []
    if config.use_cpu:
        found.append(
            refused("use_cpu", "accelerate ignores DeepSpeed there; set DS_ACCELERATOR=cpu instead of use_cpu")
        )
    if path := options.get("deepspeed_config_file"):
        try:
            file = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return "DeepSpeed", [*found, refused("deepspeed_config_file", f"{path} can't be read: {error}")]
        layout, more = deepspeed_file(file)
        return layout, found + more
    stage = int(options.get("zero_stage", 2))
    for key in ("offload_optimizer_device", "offload_param_device"):
        if str(options.get(key, "none")).lower() == "nvme":
            found.append(refused(f"{key}: nvme", "not tested; offload to the CPU is"))
    if options.get("deepspeed_moe_layer_cls_names"):
        found.append(refused("deepspeed_moe_layer_cls_names", "a mixture of experts splits the choice; not supported"))
    if stage == 0 and str(config.mixed_precision).lower() == "fp16":
        found.append(fp16_without_zero())
    return f"ZeRO {stage}", found


def deepspeed_file(file: Mapping[str, Any]) -> tuple[str, list[Finding]]:
    """The same of a DeepSpeed config file."""
    zero = block(file, "zero_optimization")
    stage = int(zero.get("stage", 0))
    offload = block(zero, "offload_optimizer")
    found = []
    if "optimizer" in file:
        found.append(refused('"optimizer"', "DeepSpeed would build that one in GAP's place; remove the block"))
    for key in ("offload_optimizer", "offload_param"):
        if block(zero, key).get("device") == "nvme":
            found.append(refused(f"{key}: nvme", "not tested; offload to the CPU is"))
    for key in UNTESTED_IN_DEEPSPEED:
        if zero.get(key) or file.get(key) or offload.get(key):
            found.append(refused(key, "not tested; use plain ZeRO"))
    if int(zero.get("zero_hpz_partition_size", 1)) > 1:
        found.append(refused("zero_hpz_partition_size", "not tested; leave it out"))
    if zero.get("elastic_checkpoint"):
        found.append(refused("elastic_checkpoint", "it does not carry GAP's buffers; leave it out"))
    if block(file, "checkpoint").get("load_universal"):
        found.append(refused("load_universal", "the conversion drops GAP's buffers; leave it out"))
    if block(file, "compile").get("deepcompile"):
        found.append(refused("deepcompile", "not tested; leave it out"))
    if stage == 0 and block(file, "fp16").get("enabled") is True:
        found.append(fp16_without_zero())
    if offload.get("device") == "cpu" and file.get("zero_force_ds_cpu_optimizer", True):
        text = "gap_hf sets it to false, if the Accelerator exists before the optimizer (Trainer: always)"
        found.append(note("zero_force_ds_cpu_optimizer", text))
    return f"ZeRO {stage}", found


def block(file: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A block of a JSON file that may be missing, or null."""
    return file.get(key) or {}


def fp16_without_zero() -> Finding:
    """Of both kinds of DeepSpeed config."""
    return refused(
        "fp16 with ZeRO 0", "DeepSpeed divides gradients by a scale that it never applied; use bf16 or ZeRO 1"
    )


def parallelism(config: ClusterConfig) -> list[Finding]:
    """Of ``parallelism_config``: what goes beyond data and tensor parallelism."""
    options = config.parallelism_config or {}
    found = []
    for key, value in options.items():
        if key.endswith(("cp_size", "sp_size", "pp_size")) and int(value) > 1:
            found.append(refused(f"{key}: {value}", "not tested; data and tensor parallelism are"))
    return found


def precision(config: ClusterConfig) -> list[Finding]:
    """Of ``mixed_precision``."""
    precision = str(config.mixed_precision or "no").lower()
    if precision == "fp8":
        return [refused("mixed_precision: fp8", "not tested; bf16 and fp16 are")]
    if precision == "fp16":
        return [
            note("mixed_precision: fp16", "steps whose gradients overflow are skipped, and GAP does not count them")
        ]
    return []


def hardware(config: ClusterConfig, kind: str) -> list[Finding]:
    """Whether this machine has what the file asks for; only a note, since it may be meant for another."""
    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    here = max(1, config.num_processes // max(1, config.num_machines))
    if kind == "NO" or config.use_cpu or here <= count:
        return []
    more = "; DeepSpeed runs on CPUs with DS_ACCELERATOR=cpu" if kind == "DEEPSPEED" else ""
    return [note("this machine", f"has {count} accelerators, {here} processes are asked for{more}")]
