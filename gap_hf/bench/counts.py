"""What one step does, counted: operations, kernel launches, reads by the host, bytes of state and of scratch memory."""

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.autograd.profiler import profile as profile_of_memory
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

STEP = "gap_hf.bench.step"
"""The name of the range in profiles."""

LAUNCHES = re.compile(r"(cuda|cu|hip)\w*(LaunchKernel|LaunchCooperativeKernel|GraphLaunch)\w*")
"""Calls of the GPU's runtime or driver that launch a kernel, or a graph of them."""

WAITS = re.compile(r"(cuda|cu|hip)\w*Synchronize\w*|(cuda|hip)Memcpy")
"""Calls that wait for the device."""

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal"}
"""Operators whose result the host must wait for."""


class Counts(NamedTuple):
    """What one step does; a count that can't be taken is None.

    Attributes:
        operations: torch operators called from Python. Those that they call in turn, and code that is not torch's, are
            not among them.
        reads: tensors whose values Python asked for: where such a tensor is on a GPU, the host waits for it.
        launches: calls that launch a kernel on the GPU, or a graph of them.
        kernels: kernels that ran there, without copies and fills.
        copies: copies and fills that ran there.
        waits: calls that wait for the GPU.
        sync_warnings: warnings from ``torch.cuda.set_sync_debug_mode``.
        scratch: bytes of memory that a step takes and gives back, at their peak.
    """

    operations: int | None = None
    reads: int | None = None
    launches: int | None = None
    kernels: int | None = None
    copies: int | None = None
    waits: int | None = None
    sync_warnings: int | None = None
    scratch: int | None = None


def count(step: Callable[[], Any], device: torch.device, compiled: bool = False) -> Counts:
    """Take a few steps and count what happens in them.

    Args:
        step: a function that takes one step.
        device: where the tensors are.
        compiled: whether the step compiles itself, which it can't while its operators are watched.
    """
    operations, reads = (None, None) if compiled else count_operations(step)
    if device.type == "cpu":
        return Counts(operations, reads, scratch=scratch_on_cpu(step))
    on_gpu = profile_cuda(step)
    return Counts(operations, reads, *on_gpu, sync_warnings(step), scratch_on_cuda(step, device))


# ---------------------------------------------------------------- operators
class Operators(TorchDispatchMode):
    """Counts torch operators, and those that bring a value to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if not name.startswith("profiler::"):  # torch.optim marks its steps for profilers
            self.operations += 1
        self.reads += name in READS or (name in ("aten::_to_copy", "aten::copy_") and comes_to_host(result, args))
        return result


class Lists(TorchFunctionMode):
    """Counts ``tolist`` of tensors on the CPU, which reads their memory without an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func is Tensor.tolist and args[0].device.type == "cpu"
        return func(*args, **(kwargs or {}))


def comes_to_host(result: Tensor, args: tuple[Any, ...]) -> bool:
    """Whether an operation copied to the CPU: its result is there, and one of its arguments isn't."""
    return result.device.type == "cpu" and any(torch.is_tensor(a) and a.device.type != "cpu" for a in args)


def count_operations(step: Callable[[], Any]) -> tuple[int, int]:
    """Count the operators that a step calls, and the values that it brings to the host."""
    with Lists() as lists, Operators() as operators:
        step()
    return operators.operations, operators.reads + lists.reads


# ---------------------------------------------------------------- the GPU
def profile_cuda(step: Callable[[], Any]) -> tuple[int, int, int, int]:
    """Count the launches, kernels, copies and waits of a step."""
    for _ in range(2):  # the first profile of a process also sets the tracing up
        torch.cuda.synchronize()
        with quiet(), profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            with record_function(STEP):
                step()
            torch.cuda.synchronize()
    return count_events(list(seen.events()))


def count_events(events: list[Any]) -> tuple[int, int, int, int]:
    """Count the launches, kernels, copies and waits among a profile's events."""
    on_gpu = [e.name for e in events if e.device_type == DeviceType.CUDA and not is_range(e)]
    copies = sum(name.startswith(("Memcpy", "Memset")) for name in on_gpu)
    on_host = [e for e in events if e.device_type == DeviceType.CPU]
    step = next(e.time_range for e in on_host if e.name == STEP)
    # after the step, the profile itself waits for the GPU
    calls = [e.name for e in on_host if step.start <= e.time_range.start <= step.end]
    launches, waits = (sum(bool(kind.fullmatch(name)) for name in calls) for kind in (LAUNCHES, WAITS))
    return launches, len(on_gpu) - copies, copies, waits


def is_range(event: Any) -> bool:
    """Whether a profile's event on the GPU is a named range rather than a kernel."""
    return getattr(event, "is_user_annotation", False) or event.name == STEP or event.name.startswith("Optimizer.step#")


def sync_warnings(step: Callable[[], Any]) -> int:
    """Count the operations of a step that torch warns about because the host waits for them."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return sum("called a synchronizing CUDA operation" in str(warning.message) for warning in caught)


# ---------------------------------------------------------------- memory
def scratch_on_cuda(step: Callable[[], Any], device: torch.device) -> int:
    """Return the bytes that torch's allocator has handed out at the peak of a step, less those before it."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def scratch_on_cpu(step: Callable[[], Any]) -> int:
    """Return the peak of a step's memory on the CPU in bytes, from the allocator's reports to the profiler.

    The reports are exact for tensors; they leave out Python's lists and what compiled code allocates by itself.
    """
    with quiet(), profile_of_memory(profile_memory=True) as seen:
        step()
    results = seen.kineto_results
    assert results is not None
    changes = [(e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"]
    now = peak = 0
    for _, nbytes in sorted(changes, key=lambda change: change[0]):
        now += nbytes
        peak = max(peak, now)
    return peak


def state_bytes(optimizer: Optimizer) -> int:
    """Return the bytes behind all tensors in ``optimizer.state``; memory that several of them share counts once."""
    storages = {}
    for tensor in tensors_in(list(optimizer.state.values())):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Find the plain tensors in nested containers, and those that tensor subclasses are made of."""
    if isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, Iterable) and not isinstance(value, (str, Tensor)):
        for entry in value:
            yield from tensors_in(entry)
    elif is_traceable_wrapper_subclass(value):
        yield from tensors_in([getattr(value, name) for name in value.__tensor_flatten__()[0]])
    elif isinstance(value, Tensor):
        yield value


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the standard error meanwhile: the profiler reports there that it starts and stops."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
