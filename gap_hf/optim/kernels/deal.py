"""The dealer, which decides which tensors go to which kernel."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..family import Family
from ..work import Work
from .kernel import Addresses, Kernel, locate, table_of
from .pick import pick

dtype_of, device_of = attrgetter("dtype"), attrgetter("device")


class Dealt(NamedTuple):
    """A kernel and the work for it: the fragments ``rows`` of the work that was dealt."""

    kernel: Kernel
    rows: Sequence[int]
    work: Work


class Dealer:
    """Deals the work of one part to kernels; each gets fragments on one device, of the same dtypes, in plain memory.

    Looking at a tensor takes longer than updating a small one, so the dealer remembers what it found as long as values
    and buffers stay where they are in memory. Gradients are looked at every time.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self.flags: tuple[bool | None, bool | None] = (None, None)
        self.places: bytes | None = None  # the addresses of values, steps and buffers
        self.found: Addresses | None = None  # with the gradients of the first step
        self.only: type[Kernel] | None = None  # that takes all
        self.grad: tuple[torch.device, torch.dtype] | None = None
        self.kernels: dict[tuple[int, type[Kernel]], Kernel] = {}  # of the first work, the second, ...

    def deal(self, work: Work, foreach: bool | None, fused: bool | None) -> list[Dealt]:
        """Deal ``work``, which has at least one fragment, to kernels that are ready to begin.

        Args:
            work: all the work to be dealt.
            foreach: the same as torch.optim's flag.
            fused: the same as torch.optim's flag, but tensors that are not contiguous go to the other kernels even so.

        Raises:
            RuntimeError: ``fused=True`` and there is no fused kernel, a parameter and its state are on different
                devices or of different sizes, or a count of steps is not a count.
        """
        table, N = table_of(work), len(work.values)
        places, grad = table[:-N].tobytes(), alike(work.grads)
        numel = np.fromiter(map(Tensor.numel, work.grads), np.int64, N)
        if (
            self.found is None
            or (foreach, fused) != self.flags
            or grad is None
            or grad != self.grad
            or places != self.places
            or numel.tobytes() != self.found.numel.tobytes()
        ):
            self.found = None
            kinds = deal(self.family, work, foreach, fused)
            if len(kinds) > 1 or grad is None:
                dealt = []
                for k, (kind, rows) in enumerate(kinds):
                    kernel, some = self.kernel(k, kind), work.select(rows)
                    kernel.begin(some, locate(some) if kind.by_address else None)
                    dealt.append(Dealt(kernel, rows, some))
                return dealt
            self.flags, self.places, self.grad = (foreach, fused), places, grad
            self.only, self.found = kinds[0][0], locate(work)
        assert self.only is not None
        kernel = self.kernel(0, self.only)
        kernel.begin(work, self.found._replace(table=table) if kernel.by_address else None)
        return [Dealt(kernel, range(N), work)]

    def kernel(self, k: int, kind: type[Kernel]) -> Kernel:
        """Return the kernel of the ``k``-th work, which is the same from step to step."""
        if (k, kind) not in self.kernels:
            self.kernels[k, kind] = kind(self.family)
        return self.kernels[k, kind]


def alike(tensors: list[Tensor]) -> tuple[torch.device, torch.dtype] | None:
    """Return the device and dtype that all ``tensors`` share; None if they differ or one is not contiguous."""
    device, dtype = tensors[0].device, tensors[0].dtype
    same = {device}.issuperset(map(device_of, tensors)) and {dtype}.issuperset(map(dtype_of, tensors))
    return (device, dtype) if same and all(map(Tensor.is_contiguous, tensors)) else None


def deal(family: Family, work: Work, foreach: bool | None, fused: bool | None) -> list[tuple[type[Kernel], list[int]]]:
    """Decide which kernel takes which fragments, by looking at all tensors; ``Dealer.deal`` remembers the result."""
    kinds: dict[Any, list[int]] = {}
    # of the compact buffers one stands for all, and one for the others
    compact = [buffer.compact for buffer in work.declared]
    samples = [2 + compact.index(which) for which in (True, False) if which in compact]
    for i in range(len(work.values)):
        row = [work.values[i], work.grads[i], *(column[i] for column in work.buffers)]
        step = work.steps[i]
        counted_elsewhere = row[0].device.type == "cpu" and step.device.type != "cpu"
        if len({t.device for t in row}) > 1 or counted_elsewhere:
            raise RuntimeError(
                f"a parameter is on {row[0].device}, its gradient or optimizer state on "
                f"{', '.join(sorted({str(t.device) for t in (*row[1:], step)}))}. If the model was moved after a step, "
                "move the state too: optimizer.load_state_dict(optimizer.state_dict())"
            )
        if row[0].is_meta:
            raise RuntimeError(
                "a parameter is on the meta device, which holds no numbers to choose by; materialize the model first "
                "(to_empty, or load its weights), or use type='default'"
            )
        # a buffer of another shape than the parameter's has been checked when it was made or loaded
        sizes = [t.numel() for t, of in zip(row, (None, None, *work.declared), strict=True) if not (of and of.shape)]
        if len(set(sizes)) > 1:
            raise RuntimeError(
                f"a parameter has {sizes[0]} elements, its gradient or optimizer state {sizes[-1]}. If its data were "
                "replaced by data of another size, build a new optimizer"
            )
        if step.dtype != torch.float64 or step.ndim:
            raise RuntimeError(
                f"a parameter's count of steps is {step.dtype} of shape {tuple(step.shape)}; expected torch.float64 of "
                "shape (). Whatever replaced it should call optimizer.load_state_dict, which converts it"
            )
        kind = (row[0].device, tuple(map(dtype_of, row)), all(map(Tensor.is_contiguous, row)))
        kinds.setdefault(kind, []).append(i)
    return [
        (
            pick(family, foreach, fused if plain else False, device.type, (*dtypes[:2], *(dtypes[k] for k in samples))),
            rows,
        )
        for (device, dtypes, plain), rows in kinds.items()
    ]
