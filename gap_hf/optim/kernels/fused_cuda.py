"""The fused CUDA kernels: a few launches of Triton kernels for all tensors, which never wait for the device.

A thousand tensors take as many launches as one: the kernels find the tensors in a table of their addresses. The tables
are uploaded only when they have changed, and from pinned memory, so that the host never waits and a CUDA graph can
capture a step.
"""

import functools
import importlib
from abc import abstractmethod
from collections.abc import Callable, Iterable
from math import log
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..family import Scored
from ..work import Work
from .kernel import Addresses, Kernel

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.uint8: "uint8"}

BLOCK = 2048
"""The elements that one program works on. Sums are taken in float32 within a program, in float64 beyond."""

WARPS = 8
"""The warps of one program: eight elements for each thread, which then takes some 64 registers. With sixteen it takes
over 128, and too few programs are in flight on a multiprocessor to keep the memory busy."""

CHUNK = 2048
"""Blocks' sums that are added up at once, and counts of steps of one program."""


@functools.cache
def load(module: str = "triton_common") -> Any:
    """Import a module of kernels; an ImportError says why there is none."""
    try:
        return importlib.import_module(f".{module}", __package__)
    except ImportError as error:
        return error


class FusedCUDA(Kernel):
    """The kernel in four launches: one counts the step, one updates all buffers, one adds up their sums, one applies.

    A step that needs no sums takes two: one counts it, one does the rest. A subclass for each family names the Triton
    kernels, and says what they are told.
    """

    name: ClassVar[str] = "fused"
    on_device: ClassVar[bool] = True
    by_address: ClassVar[bool] = True
    module: ClassVar[str]

    family: Scored

    def __init__(self, family: Scored) -> None:
        super().__init__(family)
        self.addresses: Addresses | None = None
        self.tables: Tables | None = None
        self.memory: dict[str, Kept] = {}  # the tables on the device, by name
        self.captured: list[Kept] = []  # those that CUDA graphs read

    @staticmethod
    def why_not(dtypes: tuple[torch.dtype, ...]) -> str | None:
        if isinstance(error := load(), ModuleNotFoundError) and error.name == "triton":
            return "Triton is not installed; pip install triton"
        if isinstance(error, ImportError):
            return f"Triton can't be used: {error}"
        if wrong := set(dtypes) - set(DTYPES):
            return f"it takes float32, bfloat16 and float16, not {wrong.pop()}"
        if dtypes[0] != dtypes[1]:
            return f"it takes gradients of the parameter's dtype, not {dtypes[1]} for {dtypes[0]}"
        return None

    # ------------------------------------------------------------------ what a family says
    @abstractmethod
    def numbers(self, numbers: Any) -> np.ndarray:
        """Make the table ``numbers``, float64."""

    @abstractmethod
    def told(self, numbers: Any) -> dict[str, tuple[list[float], dict[str, Any]]]:
        """Return the family's own arguments and constants for each kernel, by the kernel's name."""

    @abstractmethod
    def constants(self, work: Work) -> dict[str, Any]:
        """Return the constants that all these kernels are compiled for in this family, without those of ``shared``."""

    # ------------------------------------------------------------------ the launches
    def begin(self, work: Work, addresses: Addresses | None) -> None:
        self.addresses, self.tables = addresses, None

    def known(self) -> Addresses:
        """Return the addresses of the tensors."""
        assert self.addresses is not None
        return self.addresses

    def tick(self, work: Work) -> None:
        tables, count = self.prepared(work), len(self.known().counters)
        begin = len(tables.table) - count
        launch(work, self.module, "tick", (-(-count // CHUNK),), tables.table, begin, count, BLOCK=CHUNK)

    def observe(self, work: Work, answers: list[Tensor]) -> Tensor:
        tables, S = self.prepared(work), self.family.sums(work.numbers)
        partial = torch.empty(S, tables.n_blocks, dtype=torch.float32, device=tables.table.device)
        self.run(work, self.module, "observe", partial, len(work.values), tables.n_blocks, **self.updating(work))
        return self.added_up(work, partial)

    def added_up(self, work: Work, partial: Tensor) -> Tensor:
        """Add up ``(S, blocks)`` sums of blocks to ``(n, S)`` sums of fragments, float64."""
        tables, n, (S, blocks) = self.prepared(work), len(work.values), partial.shape
        sums = torch.empty(n, S, dtype=torch.float64, device=partial.device)
        launch(work, self.module, "add_up", (n, S), tables.blocks, partial, sums, n, blocks, CHUNK=CHUNK)
        return sums

    def apply(self, work: Work, answers: list[Tensor], choices: Tensor, resets: Tensor) -> None:
        lr, constant = self.learning_rate(work)
        decisions = choices, choices.stride(0), resets, resets.stride(0), lr
        self.run(work, self.module, "apply", *decisions, len(work.values), **constant)
        increment_version(work.values)  # autograd does not see what is written by address

    def mix(self, work: Work, answers: list[Tensor], weights: Tensor, resets: Tensor) -> None:
        lr, constant = self.learning_rate(work)
        decisions = weights, *weights.stride(), resets, resets.stride(0), lr
        constants = constant | {"FIRST": places_of(work)}
        self.run(work, f"{self.module}_mix", "mix", *decisions, len(work.values), **constants)
        increment_version(work.values)

    def step_constant(self, work: Work, weights: tuple[float, ...]) -> None:
        lr, constant = self.learning_rate(work)
        source, device = np.array(weights, dtype=np.float64), work.values[0].device
        table = self.uploaded(device, "weights", source, lambda: source)
        constants = constant | self.updating(work)
        self.run(work, f"{self.module}_mix", "step_constant", table, lr, len(work.values), **constants)
        increment_version(work.values)

    def run(self, work: Work, module: str, name: str, *arguments: Any, **constants: Any) -> None:
        """Launch a kernel that works on all elements."""
        tables, (own, more) = self.prepared(work), self.told(work.numbers)[name]
        constants |= {**self.shared(work), **more, "num_warps": WARPS}
        everywhere = tables.table, tables.blocks, tables.numbers
        launch(work, module, name, (tables.n_blocks,), *everywhere, *arguments, *own, **constants)

    def launch(self, work: Work, name: str, programs: int, *arguments: Any, **constants: Any) -> None:
        """Launch a kernel of the family's that is dealt something else."""
        launch(work, self.module, name, (programs,), *arguments, **constants)

    def shared(self, work: Work) -> dict[str, Any]:
        """Return all constants that each of these kernels is compiled for."""
        numbers = work.numbers
        return {
            "K": len(numbers.gains),
            "F": kept_moments(numbers),
            "VALUE": element_type(work.values[0].dtype),
            "FIRST_DTYPE": element_type(work.buffers[0][0].dtype),
            "L2": numbers.l2 != 0,
            "MAXIMIZE": numbers.maximize,
            "BLOCK": BLOCK,
            **self.constants(work),
        }

    def updating(self, work: Work) -> dict[str, Any]:
        """Return the constants of kernels that update the buffers."""
        return {"FIRST": places_of(work), "STOCHASTIC": work.numbers.stochastic}

    def learning_rate(self, work: Work) -> tuple[float | Tensor, dict[str, Any]]:
        """Return the learning rate as an argument, and the constant that says whether it is on the device."""
        lr = work.numbers.lr
        there = isinstance(lr, Tensor) and lr.device == work.values[0].device
        return lr if there else float(lr), {"LR_ON_DEVICE": there}

    # ------------------------------------------------------------------ what the kernels read on the device
    def prepared(self, work: Work) -> "Tables":
        """Return the tables of ``work``, made once per step."""
        if self.tables is None:
            table, counters, numel = self.known()
            sources, numbers = np.concatenate([table, counters]).view(np.int64), self.numbers(work.numbers)
            device = work.values[0].device
            self.tables = Tables(
                table=self.uploaded(device, "table", sources, lambda: table_of(work, table, counters)),
                blocks=self.uploaded(device, "blocks", numel, lambda: blocks_of(numel)),
                numbers=self.uploaded(device, "numbers", numbers, lambda: numbers),
                n_blocks=int(block_counts(numel).sum()),
            )
        return self.tables

    def uploaded(self, device: torch.device, name: str, source: np.ndarray, make: Callable[[], np.ndarray]) -> Tensor:
        """Return the table ``make()`` on ``device``, or the one that is there if it was made from the same ``source``.

        A CUDA graph keeps the tables that it was captured with. A table that has to change during the capture, because
        gradients have moved, is uploaded by each replay.
        """
        kept, capture = self.memory.get(name), capturing(device)
        if kept is None or kept.there.device != device or not np.array_equal(kept.source, source):
            table = torch.from_numpy(make())
            # pinned memory can't be had during a capture
            here = pinned_before(self.memory.pop(name, None), table) if capture else pinned(table, device)
            kept = Kept(source, here, here.to(device, non_blocking=True))
            if not capture:  # else the table is filled only when the graph is replayed
                self.memory[name] = kept
        if capture:
            self.captured.append(kept)
        return kept.there


def element_type(dtype: torch.dtype) -> Any:
    """Triton's name for ``dtype``."""
    return getattr(load().tl, DTYPES[dtype])


def launch(work: Work, module: str, name: str, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a kernel of ``module`` on the device of the work."""
    if all(grid):  # else every fragment is empty
        with torch.cuda.device_of(work.values[0]):
            getattr(load(module), name)[grid](*arguments, **options)


def packed(indices: Iterable[int]) -> int:
    """Pack ``indices`` into one number, 16 bits for each, the lowest for the first: kernels are compiled for it."""
    return sum(index << 16 * j for j, index in enumerate(indices))


def kept_moments(numbers: Any) -> int:
    """The number of candidates that have a first moment among the buffers."""
    return sum(place is not None for place in numbers.first)


def places(numbers: Any) -> list[int]:
    """Each candidate's place among the F kept first moments; F where it has none, because that is the gradient."""
    F = kept_moments(numbers)
    return [F if place is None else place for place in numbers.first]


def places_of(work: Work) -> int:
    """Pack the candidates' places as the kernels take them."""
    return packed(places(work.numbers))


def logarithms(betas: tuple[float, ...]) -> list[float]:
    """The logarithms of ``betas``, for taking powers of them; minus infinity for 0."""
    return [log(beta) if beta else -np.inf for beta in betas]


# ---------------------------------------------------------------- what the kernels read on the device


class Tables(NamedTuple):
    """The tables ``table``, ``blocks`` and ``numbers`` (see ``triton_common.py``), and the number of blocks."""

    table: Tensor
    blocks: Tensor
    numbers: Tensor
    n_blocks: int


class Kept(NamedTuple):
    """A table that is kept: its source, its copy on the host and its copy on the device."""

    source: np.ndarray
    here: Tensor
    there: Tensor


def capturing(device: torch.device) -> bool:
    """Whether a launch now would be captured into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def pinned(table: Tensor, device: torch.device) -> Tensor:
    """Put ``table`` where ``device`` can copy it from while the host goes on."""
    return table.pin_memory() if device.type == "cuda" else table


def pinned_before(kept: Kept | None, table: Tensor) -> Tensor:
    """Put ``table`` into the previous table's pinned memory, whose upload is over: a capture begins by waiting for it.

    Raises:
        RuntimeError: there was no previous table of the same size.
    """
    if kept is None or kept.here.shape != table.shape:
        raise RuntimeError(
            "a CUDA graph can capture an optimizer step only after an ordinary step with the same parameters, which "
            "compiles the kernels and makes their tables; take one before each capture"
        )
    return kept.here.copy_(table)


def table_of(work: Work, addresses: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """Make ``table`` from the addresses of all tensors and of the counters.

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
    """Make ``blocks`` from the element counts."""
    counts = block_counts(numel)
    first = np.concatenate([[0], np.cumsum(counts)])
    return np.concatenate([numel, first, np.repeat(np.arange(len(numel)), counts)]).astype(np.int64)
