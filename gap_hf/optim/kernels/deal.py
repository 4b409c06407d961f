"""Which tensors go to which kernel."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import pick
from .work import Kernel, Work

dtype_of, device_of = attrgetter("dtype"), attrgetter("device")


class Dealt(NamedTuple):
    """A kernel, and the work for it: the fragments ``rows`` of what was dealt."""

    kernel: Kernel
    rows: Sequence[int]
    work: Work


class Dealer:
    """Deals the work of one part to kernels, each taking fragments of one device, the same dtypes and plain memory.

    Looking at every tensor takes longer than updating a small one, so it remembers what it found as long as values and
    buffers stay where they are in memory. Gradients are looked at every time.
    """

    def __init__(self) -> None:
        self.flags: tuple[bool | None, bool | None] = (None, None)
        self.addresses: np.ndarray | None = None
        self.kernel: Kernel | None = None
        self.numel: np.ndarray | None = None
        self.counters: np.ndarray | None = None
        self.grad: tuple[torch.device, torch.dtype] | None = None
        self.memories: defaultdict[int, dict[str, Any]] = defaultdict(dict)  # of the first work, the second, ...

    def deal(self, work: Work, foreach: bool | None, fused: bool | None) -> list[Dealt]:
        """Deal ``work``, of one fragment at least.

        Args:
            work: everything.
            foreach: as torch.optim's flag.
            fused: as torch.optim's flag. Tensors that are not contiguous are left to the other kernels even so.

        Raises:
            RuntimeError: ``fused=True`` where there is no fused kernel, a parameter and its state on different
                devices or of different sizes, or a count of steps that is not one.
        """
        columns = (work.values, work.steps, *work.first, *work.second)
        addresses = addresses_of(chain(*columns))
        grad, numel = alike(work.grads), np.array(list(map(Tensor.numel, work.grads)), np.int64)
        if (
            self.kernel is None
            or self.addresses is None
            or self.numel is None
            or (foreach, fused) != self.flags
            or grad is None
            or grad != self.grad
            or not np.array_equal(addresses, self.addresses)
            or not np.array_equal(numel, self.numel)
        ):
            self.kernel = None
            dealt = deal(work, foreach, fused)
            if len(dealt) > 1 or grad is None:
                for k, some in enumerate(dealt):
                    if some.kernel.by_address:
                        address(some.work)
                        some.work.memory = self.memories[k]
                return dealt
            self.flags, self.addresses, self.grad = (foreach, fused), addresses, grad
            self.kernel = dealt[0].kernel
            self.numel, self.counters = numel, np.unique(addresses_of(work.steps))
        work.numel, work.counters, work.memory = self.numel, self.counters, self.memories[0]
        work.addresses = np.concatenate([addresses, addresses_of(work.grads)])
        return [Dealt(self.kernel, range(len(work.values)), work)]


def address(work: Work) -> None:
    """Fill in addresses and element counts."""
    work.addresses = addresses_of(chain(work.values, work.steps, *work.first, *work.second, work.grads))
    work.counters = np.unique(addresses_of(work.steps))
    work.numel = np.array([value.numel() for value in work.values], np.int64)


def addresses_of(tensors: Iterable[Tensor]) -> np.ndarray:
    """Where they begin in memory, uint64."""
    return np.array(list(map(Tensor.data_ptr, tensors)), np.uint64)


def alike(tensors: list[Tensor]) -> tuple[torch.device, torch.dtype] | None:
    """The device and dtype of all ``tensors`` if they are contiguous, too; else None."""
    device, dtype = tensors[0].device, tensors[0].dtype
    same = {device}.issuperset(map(device_of, tensors)) and {dtype}.issuperset(map(dtype_of, tensors))
    return (device, dtype) if same and all(map(Tensor.is_contiguous, tensors)) else None


def deal(work: Work, foreach: bool | None, fused: bool | None) -> list[Dealt]:
    """``Dealer.deal``, looking at everything."""
    K = len(work.first)
    kinds: dict[Any, list[int]] = {}
    for i in range(len(work.values)):
        row = [work.values[i], work.grads[i], *(column[i] for column in (*work.first, *work.second))]
        if len({t.device for t in row}) > 1:
            raise RuntimeError(
                f"a parameter is on {row[0].device}, its gradient or optimizer state on "
                f"{', '.join(sorted({str(t.device) for t in row[1:]}))}. If the model was moved after a step, move the "
                "state too: optimizer.load_state_dict(optimizer.state_dict())"
            )
        if row[0].is_meta:
            raise RuntimeError(
                "a parameter is on the meta device, which holds no numbers to choose by; materialize the model first "
                "(to_empty, or load its weights), or use type='default'"
            )
        if len({t.numel() for t in row}) > 1:
            raise RuntimeError(
                f"a parameter has {row[0].numel()} elements, its gradient or optimizer state {row[-1].numel()}. If its "
                "data were replaced by others of another size, build the optimizer anew"
            )
        step = work.steps[i]
        if step.dtype != torch.float64 or step.ndim:
            raise RuntimeError(
                f"a parameter's count of steps is {step.dtype} of shape {tuple(step.shape)}; expected torch.float64 of "
                "shape (). Whatever replaced it should call optimizer.load_state_dict, which converts it"
            )
        kind = (row[0].device, tuple(map(dtype_of, row)), all(map(Tensor.is_contiguous, row)))
        kinds.setdefault(kind, []).append(i)
    dealt = []
    for (device, dtypes, plain), rows in kinds.items():
        # of value, gradient, first and second moments
        kernel = pick(foreach, fused if plain else False, device.type, (*dtypes[:3], *dtypes[2 + K : 3 + K]))
        dealt.append(Dealt(kernel, rows, work.select(rows)))
    return dealt
