"""The fused CUDA kernel: a few launches of ``fused_cuda_kernels.py`` for all tensors, and no word from the device.

The launches are as many for a thousand tensors as for one: kernels find the tensors in a table of their addresses. What
they are told of the tensors is uploaded only when it has changed, from pinned memory, so that the host never waits and
a CUDA graph may capture a step.
"""

import functools
from collections.abc import Callable
from math import log
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .work import Kernel, Rule, Work

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}

BLOCK = 2048
"""Elements of a program. Sums are taken in float32 within it, in float64 beyond."""

WARPS = 8
"""Of a program: eight elements for each thread, which then takes some 64 registers. With sixteen it takes over 128, and
too few programs are in flight on a multiprocessor to keep the memory busy."""

CHUNK = 2048
"""Blocks' sums that are added up at once, and counts of steps of one program."""


@functools.cache
def load() -> Any:
    """The module of the kernels, or the ImportError that says why there is none."""
    try:
        from . import fused_cuda_kernels
    except ImportError as error:
        return error
    return fused_cuda_kernels


def why_not(dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Why this kernel can't take value, gradient, first and second moments of ``dtypes``, or None if it can."""
    if isinstance(error := load(), ModuleNotFoundError) and error.name == "triton":
        return "Triton is not installed; pip install triton"
    if isinstance(error, ImportError):
        return f"Triton can't be used: {error}"
    if wrong := set(dtypes) - set(DTYPES):
        return f"it takes float32, bfloat16 and float16, not {wrong.pop()}"
    if dtypes[0] != dtypes[1]:
        return f"it takes gradients of the parameter's dtype, not {dtypes[1]} for {dtypes[0]}"
    return None


class FusedCUDA(Kernel):
    """One launch to count the step, one for both moments, one to add up their sums, one to apply."""

    name: ClassVar[str] = "fused"
    on_device: ClassVar[bool] = True
    by_address: ClassVar[bool] = True

    def tick(self, work: Work) -> None:
        tables, count = prepare(work), len(known(work.counters))
        begin = len(tables.table) - count
        launch(work, "tick", (-(-count // CHUNK),), tables.table, begin, count, BLOCK=CHUNK)

    def observe(self, work: Work) -> Tensor:
        tables, rule, n = prepare(work), work.rule, len(work.values)
        S, blocks = len(rule.betas) + len(rule.betas2), tables.n_blocks
        partial = torch.empty(S, blocks, dtype=torch.float32, device=tables.table.device)
        sums = torch.empty(n, S, dtype=torch.float64, device=tables.table.device)
        numbers = [float(x) for x in (rule.eps, rule.l2, 1 - rule.dampening)]
        second = sum(u << 8 * j for j, u in enumerate(rule.second))
        options = {"SECOND": second, "STOCHASTIC": rule.stochastic, "num_warps": WARPS}
        arguments = (tables.table, tables.blocks, tables.numbers, partial, n, blocks, *numbers)
        launch(work, "observe", (blocks,), *arguments, **shared_options(work), **options)
        launch(work, "add_up", (n, S), tables.blocks, partial, sums, n, blocks, CHUNK=CHUNK)
        return sums

    def apply(self, work: Work, choices: Tensor, resets: Tensor) -> None:
        tables, rule, device = prepare(work), work.rule, work.values[0].device
        lr_on_device = isinstance(rule.lr, Tensor) and rule.lr.device == device
        lr = rule.lr if lr_on_device else float(rule.lr)
        numbers = [float(x) for x in (rule.eps, rule.l2, rule.decay, rule.soft_reset, rule.second_reset)]
        options = {
            "NESTEROV": rule.nesterov,
            "RESET_SECOND": rule.second_reset != 1,
            "LR_ON_DEVICE": lr_on_device,
            "num_warps": WARPS,
        }
        decisions = choices, choices.stride(0), resets, resets.stride(0)
        arguments = (tables.table, tables.blocks, tables.numbers, *decisions, lr, len(work.values), *numbers)
        launch(work, "apply", (tables.n_blocks,), *arguments, **shared_options(work), **options)
        increment_version(work.values)  # autograd does not see what is written by address


def shared_options(work: Work) -> dict[str, Any]:
    """What both passes are compiled for."""
    rule = work.rule
    first = work.first[0][0].dtype
    return {
        "K": len(rule.betas),
        "U": len(rule.betas2),
        "VALUE": element_type(work.values[0].dtype),
        "FIRST_DTYPE": element_type(first),
        "SECOND_DTYPE": element_type(work.second[0][0].dtype if work.second else first),
        "L2": rule.l2 != 0,
        "MAXIMIZE": rule.maximize,
        "BLOCK": BLOCK,
    }


def element_type(dtype: torch.dtype) -> Any:
    """Triton's name of ``dtype``."""
    return getattr(load().tl, DTYPES[dtype])


def launch(work: Work, name: str, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a kernel of ``fused_cuda_kernels.py`` where the work is."""
    if all(grid):  # else every fragment is empty
        with torch.cuda.device_of(work.values[0]):
            getattr(load(), name)[grid](*arguments, **options)


def known(array: np.ndarray | None) -> np.ndarray:
    """What the dealer has filled in."""
    assert array is not None
    return array


# ---------------------------------------------------------------- what the kernels read on the device


class Tables(NamedTuple):
    """``table``, ``blocks`` and ``numbers`` of fused_cuda_kernels.py, and how many blocks there are."""

    table: Tensor
    blocks: Tensor
    numbers: Tensor
    n_blocks: int


class Kept(NamedTuple):
    """A table in the memory of a work: what it was made from, and where it is on the host and on the device."""

    source: np.ndarray
    here: Tensor
    there: Tensor


def prepare(work: Work) -> Tables:
    """The tables of ``work``, which keeps them."""
    if work.prepared is None:
        numel, addresses, counters = known(work.numel), known(work.addresses), known(work.counters)
        sources = np.concatenate([addresses, counters]).view(np.int64)
        work.prepared = Tables(
            table=uploaded(work, "table", sources, lambda: table_of(work, addresses, counters)),
            blocks=uploaded(work, "blocks", numel, lambda: blocks_of(numel)),
            numbers=uploaded(work, "numbers", numbers := numbers_of(work.rule), lambda: numbers),
            n_blocks=int(block_counts(numel).sum()),
        )
    return work.prepared


def uploaded(work: Work, name: str, source: np.ndarray, make: Callable[[], np.ndarray]) -> Tensor:
    """The table ``make()`` on the device of ``work``: the one that is there if it was made from the same ``source``.

    A CUDA graph keeps the tables that it was captured with; one that has to change while it is captured, because
    gradients have moved, is uploaded by each replay.
    """
    device, memory = work.values[0].device, work.memory
    kept, capture = memory.get(name), capturing(device)
    if kept is None or kept.there.device != device or not np.array_equal(kept.source, source):
        table = torch.from_numpy(make())
        # pinned memory can't be had during a capture
        here = pinned_before(memory.pop(name, None), table) if capture else pinned(table, device)
        kept = Kept(source, here, here.to(device, non_blocking=True))
        if not capture:  # else the table is filled only when the graph is replayed
            memory[name] = kept
    if capture:
        memory.setdefault("captured", []).append(kept)
    return kept.there


def capturing(device: torch.device) -> bool:
    """Whether what is launched now goes into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def pinned(table: Tensor, device: torch.device) -> Tensor:
    """``table`` where ``device`` can copy it from while the host goes on."""
    return table.pin_memory() if device.type == "cuda" else table


def pinned_before(kept: Kept | None, table: Tensor) -> Tensor:
    """``table`` in the pinned memory of the one before. That one's upload is over: a capture begins by waiting for it.

    Raises:
        RuntimeError: there was none of the size.
    """
    if kept is None or kept.here.shape != table.shape:
        raise RuntimeError(
            "a CUDA graph can capture an optimizer step only after an ordinary step with the same parameters, which "
            "compiles the kernels and makes their tables; take one before each capture"
        )
    return kept.here.copy_(table)


def table_of(work: Work, addresses: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """``table``.

    Raises:
        RuntimeError: a count of steps is on another device, where the kernels can't reach it.
    """
    device = work.values[0].device
    if elsewhere := {str(step.device) for step in work.steps if step.device != device}:
        raise RuntimeError(
            f"the fused kernel needs the counts of steps on {device}, but they are on {', '.join(sorted(elsewhere))}. "
            "Move them: optimizer.load_state_dict(optimizer.state_dict())"
        )
    columns = addresses.reshape(-1, len(work.values))
    arrays = np.delete(columns, 1, axis=0)  # all but the steps
    aligned = (arrays % 16 == 0).all(axis=0)
    return np.concatenate([addresses, aligned.astype(np.uint64), counters]).view(np.int64)


def block_counts(numel: np.ndarray) -> np.ndarray:
    """The number of blocks of each fragment, from its element count."""
    return -(-numel // BLOCK)


def blocks_of(numel: np.ndarray) -> np.ndarray:
    """``blocks``."""
    counts = block_counts(numel)
    first = np.concatenate([[0], np.cumsum(counts)])
    return np.concatenate([numel, first, np.repeat(np.arange(len(numel)), counts)]).astype(np.int64)


def numbers_of(rule: Rule) -> np.ndarray:
    """``numbers``."""
    logarithms = [[log(beta) if beta else -np.inf for beta in betas] for betas in (rule.betas, rule.betas2)]
    first = [*rule.betas, *logarithms[0], *rule.modulation, *(rule.second or [0] * len(rule.betas))]
    return np.array([*first, *rule.betas2, *logarithms[1]], dtype=np.float64)
