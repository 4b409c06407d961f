"""The doctor's findings on this machine: versions, devices, kernels and layouts."""

import importlib.metadata
import importlib.util
import logging
import platform
import shutil

import torch
from packaging.requirements import Requirement

from ..optim.families import FAMILIES
from ..optim.kernels import build, fused_cpu, vectors
from ..optim.kernels.pick import why_not_fused
from .finding import Finding, State

PACKAGES = ("torch", "transformers", "accelerate", "peft", "deepspeed", "trl", "torchao", "triton", "matplotlib")
DTYPES = (torch.float32, torch.bfloat16)
CHECKED = "it agrees with the loop on small random tensors"
DDP_ON_CPUS = "accelerate launch --multi_gpu --num_processes 2 SCRIPT --use_cpu true"


def versions() -> list[Finding]:
    """List the installed version of each package that gap_hf works with, and whether it is supported."""
    wanted = supported()
    found = [Finding("python", State.GOOD, platform.python_version())]
    for name in PACKAGES:
        requirement = wanted.get(name)
        ask = f"{name}{requirement.specifier}" if requirement else name
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, State.MISSING, f"not installed; gap_hf works with {ask}"))
            continue
        # a local version like 2.13.0+cpu counts as its public one; pre-releases are judged, too
        fits = requirement is None or requirement.specifier.contains(version.partition("+")[0], prereleases=True)
        state, more = (State.GOOD, "") if fits else (State.BAD, f", but gap_hf needs {ask}")
        found.append(Finding(name, state, version + more))
    return found


def supported() -> dict[str, Requirement]:
    """The versions that gap_hf and its extras require, by package."""
    found = [Requirement(line) for line in importlib.metadata.requires("gap_hf") or []]
    return {requirement.name: requirement for requirement in found if requirement.specifier}


def devices() -> list[Finding]:
    """The accelerators that torch sees."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return [Finding("accelerators", State.NOTE, f"none; {torch.get_num_threads()} CPU threads")]
    names = accelerator.type
    if accelerator.type == "cuda":
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return [Finding("accelerators", State.GOOD, f"{torch.accelerator.device_count()}: {names}")]


def kernels() -> list[Finding]:
    """Say which kernel does the step where, and if it agrees with the loop; the CPU's is built if it never was."""
    logger = logging.getLogger(build.__name__)
    logger.disabled = True  # it is said here
    try:
        reason = why_not_fused_for_any("cpu")
    finally:
        logger.disabled = False
    if reason is None:
        found = [
            Finding(
                "fused kernel, CPU", State.GOOD, f"{vectors.chosen().name}; {fused_cpu.load().whereabouts}; {CHECKED}"
            )
        ]
    else:
        found = [
            Finding("fused kernel, CPU", State.MISSING, f"{reason}. The loop is used instead, several times slower")
        ]
    if not torch.cuda.is_available():
        return [*found, Finding("fused kernel, CUDA", State.NOTE, "there is no CUDA device")]
    reason = why_not_fused_for_any("cuda")
    if reason is None:
        return [*found, Finding("fused kernel, CUDA", State.GOOD, f"Triton; {CHECKED}")]
    return [
        *found,
        Finding("fused kernel, CUDA", State.MISSING, f"{reason}. foreach is used instead, several times slower"),
    ]


def why_not_fused_for_any(device_type: str) -> str | None:
    """Return the reason why one of the usual dtypes and families has no fused kernel, or None if all have one."""
    reasons = []
    for family in FAMILIES:
        if device_type in family.fused:
            samples = {buffer.compact: buffer for buffer in family.buffers(family.examples[0])}
            for dtype in DTYPES:
                stored = (samples[compact].at_least(dtype) for compact in (True, False) if compact in samples)
                reasons.append(why_not_fused(family, device_type, (dtype, dtype, *stored)))
    return next((reason for reason in reasons if reason), None)


def layouts() -> list[Finding]:
    """List the layouts that can be started on this machine."""
    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    found = [Finding("one process", State.GOOD)]
    on = f"{count} accelerators" if count > 1 else f"processes on the CPU: {DDP_ON_CPUS}"
    found.append(Finding("DDP", State.GOOD, on))
    enough = Finding("", State.GOOD, f"{count} accelerators")
    few = Finding("", State.MISSING, f"accelerate shards over accelerators only, and this machine has {count}")
    for name, least in (("FSDP1, FSDP2", 2), ("HSDP", 4)):
        state = enough if count >= least else few
        found.append(Finding(name, state.state, state.text + ("" if count >= least else f"; {least} are needed")))
    if importlib.util.find_spec("deepspeed") is None:
        needed = supported()["deepspeed"]
        return [*found, Finding("DeepSpeed ZeRO", State.MISSING, f"pip install '{needed.name}{needed.specifier}'")]
    if count > 0:
        return [*found, Finding("DeepSpeed ZeRO", State.GOOD, f"{count} accelerators")]
    if shutil.which("c++") or shutil.which("g++"):
        text = "on the CPU: DS_ACCELERATOR=cpu, --use_cpu false --ddp_backend gloo"
        return [*found, Finding("DeepSpeed ZeRO", State.GOOD, text)]
    return [*found, Finding("DeepSpeed ZeRO", State.MISSING, "on the CPU it needs a C++ compiler; there is none")]
