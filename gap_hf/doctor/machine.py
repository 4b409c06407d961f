"""Versions, devices, kernels and layouts of the machine that this runs on."""

import importlib.metadata
import importlib.util
import logging
import platform
import shutil

import torch
from packaging.requirements import Requirement

from ..optim.kernels import fused_cpu, fused_cuda
from .finding import Finding, State

PACKAGES = ("torch", "transformers", "accelerate", "peft", "deepspeed", "trl", "torchao", "triton", "matplotlib")
FLOAT32 = (torch.float32,) * 4


def versions() -> list[Finding]:
    """Each package that GAP meets: what is installed, and whether gap_hf was made for it."""
    wanted = supported()
    found = [Finding("python", State.GOOD, platform.python_version())]
    for name in PACKAGES:
        requirement = wanted.get(name)
        ask = f"{name}{requirement.specifier}" if requirement else name
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, State.MISSING, f"not installed; gap_hf knows {ask}"))
            continue
        # a local version like 2.13.0+cpu counts as its public one; pre-releases are judged, too
        fits = requirement is None or requirement.specifier.contains(version.partition("+")[0], prereleases=True)
        state, more = (State.GOOD, "") if fits else (State.BAD, f", but gap_hf was made for {ask}")
        found.append(Finding(name, state, version + more))
    return found


def supported() -> dict[str, Requirement]:
    """The requirements of gap_hf and of its extras, by package."""
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
    """Which kernel steps where; the CPU's is built now if it never was."""
    found = []
    logger = logging.getLogger(fused_cpu.__name__)
    logger.disabled = True  # it is said here
    try:
        reason = fused_cpu.why_not(FLOAT32)
    finally:
        logger.disabled = False
    text = f"built, kept in {fused_cpu.cache_dir()}" if reason is None else f"{reason}. The loop, several times slower"
    found.append(Finding("fused kernel, CPU", State.GOOD if reason is None else State.MISSING, text))
    if torch.cuda.is_available():
        reason = fused_cuda.why_not(FLOAT32)
        text = "Triton" if reason is None else f"{reason}. foreach, several times slower"
        found.append(Finding("fused kernel, CUDA", State.GOOD if reason is None else State.MISSING, text))
    else:
        found.append(Finding("fused kernel, CUDA", State.NOTE, "there is no CUDA device"))
    return found


def layouts() -> list[Finding]:
    """Which layouts can be started on this machine."""
    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    found = [Finding("one process", State.GOOD)]
    on = f"{count} accelerators" if count > 1 else "processes on the CPU: recipes/configs/ddp_cpu.yaml"
    found.append(Finding("DDP", State.GOOD, on))
    enough = Finding("", State.GOOD, f"{count} accelerators")
    few = Finding("", State.MISSING, f"accelerate shards over accelerators only, of which there are {count}")
    for name, least in (("FSDP1, FSDP2", 2), ("HSDP", 4)):
        state = enough if count >= least else few
        found.append(Finding(name, state.state, state.text + ("" if count >= least else f"; {least} are needed")))
    if importlib.util.find_spec("deepspeed") is None:
        return [*found, Finding("DeepSpeed ZeRO", State.MISSING, "pip install 'gap_hf[deepspeed]'")]
    if count > 0:
        return [*found, Finding("DeepSpeed ZeRO", State.GOOD, f"{count} accelerators")]
    if shutil.which("c++") or shutil.which("g++"):
        text = "on the CPU: DS_ACCELERATOR=cpu, --use_cpu false --ddp_backend gloo"
        return [*found, Finding("DeepSpeed ZeRO", State.GOOD, text)]
    return [*found, Finding("DeepSpeed ZeRO", State.MISSING, "on the CPU it needs a C++ compiler; there is none")]
