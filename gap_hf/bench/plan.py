"""The plan of a benchmark: which contenders are in memory at the same time, and which don't fit at all."""

from typing import NamedTuple

import torch

from .contenders import BASELINE, Contender, start
from .counts import scratch_on_cpu, scratch_on_cuda, state_bytes
from .errors import BenchError
from .workloads import Workload

TRIAL_ELEMENTS = 1 << 20
"""The size of the shortened workload on which a contender's need of memory is measured."""

GENEROUS = 100
"""Bytes per element that no contender's state and scratch memory exceed at usual K: if there is as much for all of
them, none has to be measured beforehand."""


class Need(NamedTuple):
    """The bytes of memory that a contender needs: those it keeps, and more during its step."""

    state: int
    scratch: int


class Plan(NamedTuple):
    """Batches of contenders that are run at the same time, and the contenders left out, with the reason."""

    batches: list[list[Contender]]
    absent: dict[str, str]


def plan(
    chosen: list[Contender], workload: Workload, K: int, device: torch.device, dtype: torch.dtype, free: int, fixed: int
) -> Plan:
    """Divide the contenders into batches that fit into memory.

    Args:
        chosen: the contenders, the baseline first.
        workload: the tensors that they step.
        K: number of candidates.
        device: where the tensors are.
        dtype: the dtype of parameters and gradients.
        free: the bytes that may be used.
        fixed: how many of these are used by everything but the contenders.

    Raises:
        BenchError: the memory is not even enough for the baseline, or the baseline can't be run.
    """
    quadratic = [contender for contender in chosen if contender.quadratic]
    if fixed + GENEROUS * workload.elements * (len(chosen) - len(quadratic)) < free:
        measured = [measure(contender, workload, K, device, dtype) for contender in quadratic]
        known = [need for need in measured if isinstance(need, Need)]
        total = fixed + GENEROUS * workload.elements * (len(chosen) - len(quadratic)) + sum(map(sum, known))
        if len(known) == len(measured) and total < free:
            return Plan([chosen], {})
    baseline_bytes = 2 * workload.elements * dtype.itemsize
    if (least := fixed + baseline_bytes) > free:  # before anything of that size is made
        raise too_large(workload, dtype, device, least, free)
    needs, absent = {}, {}
    for contender in chosen:
        need = measure(contender, workload, K, device, dtype)
        if isinstance(need, str):
            absent[contender.name] = need
        else:
            needs[contender.name] = need
    if BASELINE in absent:
        raise BenchError(f"the baseline, {BASELINE}, can't be run: {absent[BASELINE]}")
    if (least := fixed + sum(needs[BASELINE])) > free:
        raise too_large(workload, dtype, device, least, free)
    present = [contender for contender in chosen if contender.name in needs]
    batches, without_room = pack(present, needs, free - fixed)
    for name in without_room:
        absent[name] = f"needs {gigabytes(fixed + sum(needs[name]))}, and {gigabytes(free)} can be had on {device}"
    return Plan(batches, absent)


def pack(chosen: list[Contender], needs: dict[str, Need], room: int) -> tuple[list[list[Contender]], list[str]]:
    """Pack contenders, in order, into few batches, each with the baseline if that leaves room for another one.

    Returns:
        The batches, and the names of the contenders that don't fit even alone.
    """

    def fits(batch: list[Contender]) -> bool:
        theirs = [needs[contender.name] for contender in batch]
        return sum(need.state for need in theirs) + max(need.scratch for need in theirs) <= room

    baseline, *others = chosen
    batches, without_room = [[baseline]], []
    for contender in others:
        for batch in ([*batches[-1], contender], [baseline, contender], [contender]):
            if fits(batch):
                batches[-1:] = [batch] if batch[:-1] == batches[-1] else [batches[-1], batch]
                break
        else:
            without_room.append(contender.name)
    return batches, without_room


def measure(contender: Contender, workload: Workload, K: int, device: torch.device, dtype: torch.dtype) -> Need | str:
    """Find out, from two steps on a shortened workload, what ``contender`` needs, or why it can't be run."""
    if contender.compiled:  # would have to be compiled again; torch's AdamW needs more for its state
        largest = max(shape_bytes(shape, dtype) for shape in workload.shapes)
        return Need(2 * workload.elements * dtype.itemsize, 4 * largest)
    short = workload.shrunk(TRIAL_ELEMENTS)
    optimizer = start(contender, short.tensors(device, dtype), K)
    if isinstance(optimizer, str):
        return optimizer
    cpu = device.type == "cpu"
    scratch = scratch_on_cpu(optimizer.step) if cpu else scratch_on_cuda(optimizer.step, device)
    scale = workload.elements / short.elements
    return Need(int(state_bytes(optimizer) * scale), int(scratch * scale))


def shape_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """The size in bytes of a tensor with this shape and dtype."""
    return torch.Size(shape).numel() * dtype.itemsize


def too_large(workload: Workload, dtype: torch.dtype, device: torch.device, needed: int, free: int) -> BenchError:
    """The error for a workload with which not even the baseline fits into memory."""
    short = str(dtype).removeprefix("torch.")
    return BenchError(
        f"workload {workload.name} in {short} needs {gigabytes(needed)} of memory on {device} for parameters, "
        f"gradients and the baseline alone, and {gigabytes(free)} can be had; take another workload or --dtype bfloat16"
    )


def gigabytes(nbytes: int) -> str:
    """A number of bytes as text, in GB."""
    return f"{nbytes / 1e9:.1f} GB"
