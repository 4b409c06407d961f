"""Where and with what a measurement was made, and how much memory there is for it."""

import platform
from datetime import datetime
from pathlib import Path

import psutil
import torch

import gap_hf

from .errors import BenchError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(name: str) -> torch.device:
    """The device called ``name``.

    Raises:
        BenchError: there is no such device, or this machine does not have it.
    """
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise BenchError(f"--device {name!r} is unknown; expected cpu, cuda or cuda:1")
    if kind == "cuda":
        count = torch.cuda.device_count()
        if int(number or 0) >= count:
            raise BenchError(f"there is no device {name}: torch {torch.__version__} sees {count} CUDA devices")
        device = torch.device("cuda", int(number or 0))
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def find_dtype(name: str) -> torch.dtype:
    """The dtype called ``name``.

    Raises:
        BenchError: it is not one that can be measured.
    """
    if name not in DTYPES:
        raise BenchError(f"--dtype {name!r} is unknown; expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def describe(device: torch.device) -> dict[str, str]:
    """Describe the machine in a line: processor, threads, versions and time."""
    about = {"cpu": processor(), "threads": str(torch.get_num_threads())}
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z")
    return {**about, "torch": torch.__version__, "gap_hf": gap_hf.__version__, "date": now}


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


MARGIN = 0.95
"""Share of the free memory that is used at most."""


def usable_memory(device: torch.device) -> int:
    """The number of bytes that may be used on ``device``."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = min(psutil.virtual_memory().available, left_in_container())
    return int(MARGIN * free)


def left_in_container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """The number of bytes that the container's limit leaves; a very large number without a limit."""
    try:
        limit, used = ((root / f"memory.{what}").read_text().strip() for what in ("max", "current"))
    except OSError:
        return 1 << 62
    return (1 << 62) if limit == "max" else int(limit) - int(used)
