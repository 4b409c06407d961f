"""The doctor's verdict on an accelerate config: whether a gap optimizer will be exact, or refused and why.

The refusals are those that ``gap_hf.sharding`` raises when the run starts, as far as the file tells.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

from ..sharding import launch
from ..sharding.deepspeed import DeepSpeed, get, stage
from ..sharding.dtensor import DTensors
from ..sharding.fsdp1 import FSDP1
from ..sharding.refusal import Refusal, configured
from .finding import Finding, State


def read(path: str | Path) -> ClusterConfig:
    """Read an accelerate config file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: accelerate can't read it, or it is a config for SageMaker.
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
    """List what will happen with ``config``; the last finding is the verdict."""
    kind = kind_of(config)
    found = of(launch.REFUSALS, {**vars(config), "distributed_type": kind})
    more: list[Finding] = []
    if kind == "NO":
        layout = "one process"
    elif kind in launch.DDP:
        layout, more = "DDP", on_cpus(config, kind)
    elif kind == "FSDP":
        layout, more = fsdp(config)
    elif kind == "DEEPSPEED":
        layout, more = deepspeed(config)
    else:
        layout = kind
    found += [*more, *precision(config), *hardware(config, kind)]
    if any(finding.state is State.BAD for finding in found):
        return [*found, refused("verdict", f"{layout}: will be refused, or is not what you asked for")]
    count = f", {config.num_processes} processes" if kind != "NO" else ""
    return [*found, Finding("verdict", State.GOOD, f"{layout}{count}: exact, the choices of one process")]


def kind_of(config: ClusterConfig) -> str:
    """The ``distributed_type`` of a config, as text."""
    return str(getattr(config.distributed_type, "value", config.distributed_type))


def cuts(config: ClusterConfig) -> bool:
    """Whether parameters, or what the optimizer keeps for them, will be in pieces."""
    kind = kind_of(config)
    if kind == "DEEPSPEED":
        try:
            return stage(deepspeed_file(config)) > 0
        except (OSError, ValueError, TypeError):
            return False  # which `judge` says
    return kind not in ("NO", *launch.DDP)


def refused(what: str, why: str) -> Finding:
    """A finding that stands in the way of the run."""
    return Finding(what, State.BAD, why)


def note(what: str, text: str) -> Finding:
    """A finding that is worth knowing."""
    return Finding(what, State.NOTE, text)


def of(refusals: Iterable[Refusal], config: Mapping[str, Any]) -> list[Finding]:
    """The refusals that ``config`` shows, as findings."""
    return [refused(each.name, each.advice) for each in configured(refusals, config)]


def on_cpus(config: ClusterConfig, kind: str) -> list[Finding]:
    """On CPUs, note what the script must say itself."""
    if not config.use_cpu or kind == "MULTI_CPU":
        return []
    text = "the script must say so, too (Trainer: --use_cpu true), or each process trains alone, which is refused"
    return [note("use_cpu", text)]


def fsdp(config: ClusterConfig) -> tuple[str, list[Finding]]:
    """The name of the FSDP layout, and the findings about it."""
    options = config.fsdp_config
    if str(options.get("fsdp_version", 1)) == "2":
        return "FSDP2", of(DTensors.refusals, options)
    text = "peft 0.21 leaves adapters out of checkpoints there (with any optimizer); FSDP2 saves them"
    return "FSDP1", [*of(FSDP1.refusals, options), note("FSDP1 and LoRA", text)]


def deepspeed(config: ClusterConfig) -> tuple[str, list[Finding]]:
    """The name of the DeepSpeed layout, and the findings about it."""
    options = dict(config.deepspeed_config)
    fp16 = str(config.mixed_precision).lower() == "fp16"
    try:
        file = deepspeed_file(config)
    except (OSError, ValueError, TypeError) as error:
        path = options["deepspeed_config_file"]
        return "DeepSpeed", [refused("deepspeed_config_file", f"{path} can't be read: {error}")]
    if get(file, "fp16", "enabled") in (None, "auto"):  # accelerate fills it in
        file["fp16"] = {"enabled": fp16}
    found = of(DeepSpeed.refusals, file)
    if options.get("deepspeed_moe_layer_cls_names"):
        text = "ZeRO 3 gathers each of these layers as a whole, which changes nothing for GAP; not tested"
        found.append(note("deepspeed_moe_layer_cls_names", text))
    on_cpu = get(file, "zero_optimization", "offload_optimizer", "device") == "cpu"
    if on_cpu and file.get("zero_force_ds_cpu_optimizer", True):
        text = "gap_hf sets it to false, if the Accelerator exists before the optimizer (Trainer: always)"
        found.append(note("zero_force_ds_cpu_optimizer", text))
    return f"ZeRO {stage(file)}", found


def deepspeed_file(config: ClusterConfig) -> dict[str, Any]:
    """Read the DeepSpeed config that a config names, or write out what it says itself.

    Raises:
        OSError, ValueError, TypeError: the file can't be read.
    """
    if path := config.deepspeed_config.get("deepspeed_config_file"):
        return dict(json.loads(Path(path).read_text(encoding="utf-8")))
    return written_out(config.deepspeed_config)


def written_out(options: Mapping[str, Any]) -> dict[str, Any]:
    """Write accelerate's own options for DeepSpeed the way a DeepSpeed config file does."""
    devices = {key: str(options.get(f"{key}_device", "none")).lower() for key in ("offload_optimizer", "offload_param")}
    offload = {key: {"device": device} for key, device in devices.items()}
    return {"zero_optimization": {"stage": int(options.get("zero_stage", 2)), **offload}}


def precision(config: ClusterConfig) -> list[Finding]:
    """The findings about ``mixed_precision``."""
    if str(config.mixed_precision).lower() != "fp16":
        return []
    return [note("mixed_precision: fp16", "steps whose gradients overflow are skipped, and GAP does not count them")]


def hardware(config: ClusterConfig, kind: str) -> list[Finding]:
    """Note if this machine lacks what the file asks for, which may be meant for another machine."""
    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    here = max(1, config.num_processes // max(1, config.num_machines))
    if kind == "NO" or config.use_cpu or here <= count:
        return []
    more = "; DeepSpeed runs on CPUs with DS_ACCELERATOR=cpu" if kind == "DEEPSPEED" else ""
    return [note("this machine", f"has {count} accelerators, {here} processes are asked for{more}")]
