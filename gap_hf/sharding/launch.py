"""Launches that did not give what they were asked for, so that the run is not the one its user thinks it is."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

from .refusal import Refusal

LAUNCHED_BY_ENVIRONMENT = ("RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")

DDP = ("MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU", "MULTI_MLU", "MULTI_SDAA", "MULTI_MUSA", "MULTI_HPU")
"""accelerate's names of DDP, by device."""


def asked(backend: str) -> bool:
    """Whether ``accelerate launch`` (or TrainingArguments) was asked for ``"FSDP"`` or ``"DEEPSPEED"``."""
    return os.environ.get(f"ACCELERATE_USE_{backend}", "false").lower() in ("true", "1")


def accelerate_trains_alone() -> bool:
    """Whether accelerate counts on this process alone, though it may have connected it with others.

    This happens on CPUs if the script does not say ``cpu=True`` (Trainer: ``use_cpu``), whatever the launcher's config
    says: ``PartialState`` sets up the process group, but keeps ``DistributedType.NO`` (accelerate 1.15, ``state.py``).
    """
    module = sys.modules.get("accelerate.state")
    kind = module.PartialState._shared_state.get("distributed_type") if module is not None else None
    return getattr(kind, "value", None) == "NO"


def seems_lone() -> bool:
    """Whether ``accelerate launch`` started one process where several were probably meant.

    ``accelerate launch --cpu --num_processes 2`` starts one, and leaves only the address of a leader that nobody needs
    (``accelerate/utils/launch.py``, ``prepare_simple_launcher_cmd_env``). The address may be there for other reasons,
    so this is only a suspicion.
    """
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    return by_accelerate and not any(name in os.environ for name in LAUNCHED_BY_ENVIRONMENT)


def beyond_data_and_tensors(config: Mapping[str, Any]) -> bool:
    """Whether ``parallelism_config`` asks for context, sequence or pipeline parallelism."""
    options = config.get("parallelism_config") or {}
    return any(key.endswith(("cp_size", "sp_size", "pp_size")) and int(value) > 1 for key, value in options.items())


SEPARATE = Refusal(
    "processes that don't know of each other",
    "each trains alone, on all of the data",
    "on CPUs, say so to TrainingArguments (`use_cpu=True`, `--use_cpu true` after the script's name) or "
    "`Accelerator(cpu=True)`, or set `ACCELERATE_USE_CPU=true`; with DeepSpeed there, `ddp_backend='gloo'` instead. "
    "Without accelerate, set up `torch.distributed` before the optimizer steps",
    in_running=lambda launched, together: launched > 1 and (together == 1 or accelerate_trains_alone()),
)
LONE = Refusal(
    "`distributed_type: NO` for several processes",
    "accelerate starts only one process for it",
    "add `--multi_gpu`, or set `distributed_type: MULTI_GPU` in the config file, on CPUs, too (there with "
    "`use_cpu: true`, and `--use_cpu true` after the script's name); `--num_processes 1` if one is what you want",
    in_running=seems_lone,
    in_config=lambda config: config["distributed_type"] == "NO" and config["num_processes"] > 1,
)
LONE_CPU = Refusal(
    "`distributed_type: MULTI_CPU`",
    "without `mpirun_config` accelerate starts one process for it (accelerate 1.15)",
    "set `distributed_type: MULTI_GPU` with `use_cpu: true`",
    in_config=lambda config: config["distributed_type"] == "MULTI_CPU" and not config.get("mpirun_config"),
)
FSDP_ON_CPUS = Refusal(
    "FSDP with `use_cpu`",
    "on CPUs accelerate silently turns FSDP into DDP",
    "use accelerators, or `distributed_type: MULTI_GPU` (with `use_cpu: true`) if DDP is what you want. In a loop of "
    "your own, pass model and optimizer to `accelerator.prepare` together",
    in_running=lambda backend: asked("FSDP") and backend != "FSDP",
    in_config=lambda config: config["distributed_type"] == "FSDP" and config["use_cpu"],
)
DEEPSPEED_ON_CPUS = Refusal(
    "DeepSpeed with `use_cpu`",
    "accelerate ignores DeepSpeed with `use_cpu`",
    "set `DS_ACCELERATOR=cpu` instead, which is DeepSpeed's own way. In a loop of your own, pass model and optimizer "
    "to `accelerator.prepare` together",
    in_running=lambda backend: asked("DEEPSPEED") and backend != "DEEPSPEED",
    in_config=lambda config: config["distributed_type"] == "DEEPSPEED" and config["use_cpu"],
)
OTHER_TYPES = Refusal(
    "another `distributed_type`",
    "it is a backend that gap_hf does not know",
    "use DDP, FSDP or DeepSpeed ZeRO",
    in_config=lambda config: config["distributed_type"] not in ("NO", "FSDP", "DEEPSPEED", *DDP),
)
PARALLELISM = Refusal(
    "`cp_size`, `sp_size` or `pp_size` above 1",
    "they are not tested, as data and tensor parallelism are",
    "leave them out",
    in_config=beyond_data_and_tensors,
)
FP8 = Refusal(
    "`mixed_precision: fp8`",
    "it is not tested, as bf16 and fp16 are",
    "use one of these",
    in_config=lambda config: str(config.get("mixed_precision")).lower() == "fp8",
)

REFUSALS = (SEPARATE, LONE, LONE_CPU, FSDP_ON_CPUS, DEEPSPEED_ON_CPUS, OTHER_TYPES, PARALLELISM, FP8)
"""Launches that give less than they were asked for, or something untested; ``in_config`` takes accelerate's config."""


def downgrade(backend: str | None = None) -> str | None:
    """Say what was asked for but is not there, and what to set.

    Args:
        backend: what shards the parameters, ``"FSDP"`` or ``"DEEPSPEED"``; None if nothing does.

    Returns:
        The message; None if the launch gave what it was asked for, as far as can be seen.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    together = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if SEPARATE.is_running(processes, together):
        return SEPARATE.message(f"{processes} processes were launched, but they don't know of each other")
    if together > 1 and FSDP_ON_CPUS.is_running(backend):
        return FSDP_ON_CPUS.message("FSDP was asked for, but every process holds whole parameters")
    if together > 1 and DEEPSPEED_ON_CPUS.is_running(backend):
        return DEEPSPEED_ON_CPUS.message("DeepSpeed was asked for, but its engine does not hold this optimizer")
    return None


def lone_process() -> str | None:
    """Say that one process runs although ``accelerate launch`` was probably asked for several; None if not so."""
    if LONE.is_running():
        found = "accelerate launch seems to have been asked for several processes, but started only this one"
        return f"{found}. {LONE.remedy}"
    return None
