"""What the launcher was asked for and did not give: a run that is not the one its user thinks it is."""

import os
import sys
from typing import Any

import torch.distributed as dist
from torch.optim import Optimizer

LAUNCHED_BY_ENVIRONMENT = ("RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def asked(backend: str) -> bool:
    """Whether ``accelerate launch`` (or TrainingArguments) was asked for ``"FSDP"`` or ``"DEEPSPEED"``."""
    return os.environ.get(f"ACCELERATE_USE_{backend}", "false").lower() in ("true", "1")


def accelerate_trains_alone() -> bool:
    """Whether accelerate counts on this process alone, though it may have connected it with others.

    So it is on CPUs where the script does not say ``cpu=True`` (Trainer: ``use_cpu``), whatever the launcher's config
    said: ``PartialState`` sets up the process group, and keeps ``DistributedType.NO`` (accelerate 1.15, ``state.py``).
    """
    module = sys.modules.get("accelerate.state")
    kind = module.PartialState._shared_state.get("distributed_type") if module is not None else None
    return getattr(kind, "value", None) == "NO"


def downgrade(backend: str | None = None) -> str | None:
    """Say what was asked for but is not there, and what to set.

    Args:
        backend: what shards the parameters, ``"FSDP"`` or ``"DEEPSPEED"``; None where nothing does.

    Returns:
        The message; None where the launch gave what it was asked for, as far as can be seen.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    together = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if processes > 1 and (together == 1 or accelerate_trains_alone()):
        return (
            f"{processes} processes were launched, but they don't know of each other: each trains alone, on all of "
            "the data. On CPUs, say so to TrainingArguments (use_cpu=True, --use_cpu true after the script's name) or "
            "Accelerator(cpu=True); with DeepSpeed there, ddp_backend='gloo' instead. Without accelerate, set up "
            "torch.distributed before the optimizer steps."
        )
    if together > 1 and asked("FSDP") and backend != "FSDP":
        return (
            "FSDP was asked for, but every process holds whole parameters. On CPUs (--use_cpu) accelerate silently "
            "falls back to DDP: use accelerators, or distributed_type: MULTI_GPU (with use_cpu: true) if DDP is "
            "what you want. In a loop of your own, pass model and optimizer to accelerator.prepare together."
        )
    if together > 1 and asked("DEEPSPEED") and backend != "DEEPSPEED":
        return (
            "DeepSpeed was asked for, but its engine does not hold this optimizer. accelerate ignores DeepSpeed with "
            "--use_cpu (drop it; DS_ACCELERATOR=cpu is DeepSpeed's own way). In a loop of your own, pass model and "
            "optimizer to accelerator.prepare together."
        )
    return None


def lone_process() -> str | None:
    """Say that one process runs where ``accelerate launch`` was probably asked for several; None otherwise.

    ``accelerate launch --cpu --num_processes 2`` starts one, and leaves only the address of a leader that nobody needs
    (``accelerate/utils/launch.py``, ``prepare_simple_launcher_cmd_env``). The address may be there for other reasons:
    this is a suspicion.
    """
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if by_accelerate and not any(name in os.environ for name in LAUNCHED_BY_ENVIRONMENT):
        return (
            "accelerate launch seems to have been asked for several processes, but started only this one. Add "
            "--multi_gpu, or set distributed_type: MULTI_GPU in its config file, on CPUs, too (there with use_cpu: "
            "true, and --use_cpu true after the script's name); --num_processes 1 if one is what you want."
        )
    return None


def refuse_takeover(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """A hook on every optimizer's step: raise if another optimizer has a gap optimizer's groups.

    It either loaded them with a gap optimizer's state, or was built upon them: accelerate does so under DeepSpeed's
    optimizer offload (``map_pytorch_optim_to_deepspeed``), and then trains with DeepSpeedCPUAdam without a word.
    """
    if "negative_steps" not in optimizer.param_groups[0] or hasattr(optimizer, "steps_taken"):
        return
    if any(hasattr(inner, "steps_taken") for inner in vars(optimizer).values()):  # a wrapper around one
        return
    name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
    # what was built upon the groups has no state yet, or its own; gap's first moments are exp_avg_0, exp_avg_1, ...
    if any(state and "exp_avg" not in state for state in optimizer.state.values()):
        raise RuntimeError(
            f"the state that {name} has loaded is a gap optimizer's, which it can't continue. Resume with the optim "
            "that the checkpoint was trained with; or, to change the optimizer, delete optimizer.pt from the "
            "checkpoint: the run goes on from its weights and its step, with a new optimizer state and a learning rate "
            "schedule that starts again."
        )
    raise RuntimeError(
        f"the gap optimizer was replaced by {name}, which took over its parameter groups. Under optimizer offload "
        'accelerate does this unless the DeepSpeed config says "zero_force_ds_cpu_optimizer": false. gap_hf sets that '
        "where the Accelerator exists before the optimizer is built: build it first, or set it."
    )
