"""Layouts in which ranks hold different elements, and the reduction over them."""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .layout import Layout, ParameterLayout, Shaped, State
from .part import Part, Piece
from .refusal import Refusal

DIFFERENT = Refusal(
    "ranks that hold different parameters (pipeline stages)",
    "choices are made from what all ranks together hold of each parameter",
    "build the optimizer from the same model and in the same order on every rank",
    in_running=lambda both_ends, digest: both_ends != [digest, -digest],
)


class Sharded(Layout):
    """The base of layouts in which ranks hold different elements. Whatever is added up takes one all-reduce."""

    reduces = True

    group: dist.ProcessGroup | None = None
    """The ranks that hold the model between them; None is the default group, all ranks."""

    owned: Tensor | None = None
    """``(all P,)`` bool: the parameters for which this rank alone reports whether there is a gradient.

    It is needed if a rank without elements of a parameter can't know whether that has a gradient elsewhere; None if
    all ranks know.
    """

    def verify(self) -> None:
        # The optimizer's lists come from the same script on every rank; where they do not agree, the reduction would
        # add apples to pears, or never return.
        description = repr((type(self).__name__, self.shapes, self.describe()))
        digest = int.from_bytes(hashlib.sha256(description.encode()).digest()[:6], "big")
        both_ends = self.all_reduce(torch.tensor([digest, -digest], device=self.device), dist.ReduceOp.MAX).tolist()
        if DIFFERENT.is_running(both_ends, digest):
            raise RuntimeError(
                DIFFERENT.message(
                    "the ranks hand gap_hf different parameters, or the same ones in another order or cut differently "
                    f"(rank {dist.get_rank()} holds {[len(group) for group in self.numel]} parameters per group with "
                    f"{[sum(group) for group in self.numel]} elements, {self.describe()})"
                )
            )
        mine = torch.tensor([n for group in self.covered() for n in group], dtype=torch.float64, device=self.device)
        covered = self.all_reduce(mine, dist.ReduceOp.SUM).tolist()
        names = [(g, i) for g, group in enumerate(self.numel) for i in range(len(group))]
        for (g, i), found, expected in zip(names, covered, (n for group in self.numel for n in group), strict=True):
            if abs(found - expected) > 0.5:
                amount = "overlap with others" if math.isinf(found) else f"make {found:g}"
                raise RuntimeError(
                    f"parameter {i} of group {g} has {expected} elements, but its fragments on all ranks {amount}: "
                    f"gap_hf misreads this layout ({self.describe()}) and would choose by wrong scores. "
                    "Please report it with the versions of torch, accelerate and deepspeed."
                )

    @abstractmethod
    def covered(self) -> list[list[float]]:
        """For every parameter, the number of its elements here, divided by the number of ranks that hold the same.

        It is infinite for a parameter that shares elements with another.
        """

    @abstractmethod
    def describe(self) -> str:
        """Describe the layout in words that are the same on every rank."""

    def all_reduce(self, tensor: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
        """All-reduce over the ranks, on a device that their backend can reduce on; ``tensor`` is overwritten there."""
        if dist.get_world_size(self.group) == 1:
            return tensor
        place = reduction_device(tensor.device, self.group)
        moved = tensor.to(place)
        dist.all_reduce(moved, op, group=self.group)
        return moved.to(tensor.device)

    def add_up(self, numbers: Tensor) -> Tensor:
        return self.all_reduce(numbers.clone(), dist.ReduceOp.SUM)

    def maximum(self, values: Tensor) -> Tensor:
        return self.all_reduce(values, dist.ReduceOp.MAX)

    def reduce(self, tables: list[Tensor], live: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        numbers = [table.flatten() for table in tables]
        if self.owned is not None:
            numbers.append(pack(torch.cat(live) & self.owned))
        reduced = self.all_reduce(torch.cat(numbers), dist.ReduceOp.SUM).split([len(n) for n in numbers])
        sums = [r.view(table.shape) for r, table in zip(reduced, tables, strict=False)]
        if self.owned is not None:
            lengths = [len(flags) for flags in live]
            live = list(unpack(reduced[-1], sum(lengths)).split(lengths))
        return sums, live


class InPieces(Sharded):
    """The base of sharded layouts whose buffers are stretches of flattened parameters."""

    @abstractmethod
    def pieces(self, g: int, i: int) -> list[Piece]:
        """List the stretches of parameter ``i`` of group ``g`` that this rank holds."""

    def whole(
        self, g: int, i: int, state: State, name: str, dtype: torch.dtype, shaped: Shaped | None = None
    ) -> Tensor:
        shape = self.shapes[g][i] if shaped is None else shaped(self.shapes[g][i])
        pieces = self.pieces(g, i) if self.is_first(g, i) else []
        found = [(state[piece.key][name], piece) for piece in pieces]
        device = found[0][0].device if found else self.keys(g, i)[0].device
        whole = torch.zeros(shape.numel(), dtype=dtype, device=device)
        for stored, piece in found:
            if shaped is None:
                part = piece.local(stored).flatten()
                whole[piece.offset : piece.offset + len(part)] = part
            elif not piece.offset:  # all that hold a part of the parameter have the same
                whole += self.own(g, piece.key, shaped, stored)[i].flatten()
        return self.all_reduce(whole, dist.ReduceOp.SUM).view(shape)

    def fill(self, g: int, i: int, state: State, name: str, whole: Tensor, shaped: Shaped | None = None) -> None:
        for piece in self.pieces(g, i):
            stored = state[piece.key][name]
            if shaped is None:
                part = piece.local(stored)
                part.copy_(whole.flatten()[piece.offset : piece.offset + part.numel()].view(part.shape))
            else:
                self.own(g, piece.key, shaped, stored)[i].copy_(whole)

    @abstractmethod
    def own(self, g: int, key: Tensor, shaped: Shaped, stored: Tensor) -> Mapping[int, Tensor]:
        """Divide a buffer of ``key``, with shapes of its own, among the parameters of group ``g`` that it is for."""

    def is_first(self, g: int, i: int) -> bool:
        """Whether no rank before this one holds the same part of parameter ``i`` of group ``g``."""
        return True

    @cached_property
    def cut_up(self) -> list[list[bool]]:
        """Which parameters are in pieces, so that a rank has a part of them that is not all of it."""
        held, of = (torch.tensor([n for group in counts for n in group]) for counts in (self.held(), self.numel))
        found = iter(self.maximum(((held > 0) & (held < of)).to(self.device, torch.float32)).bool().tolist())
        return [[next(found) for _ in group] for group in self.numel]

    @abstractmethod
    def held(self) -> list[list[int]]:
        """For every parameter, the number of its elements here."""

    def gather(self, part: Part, rows: Sequence[int], dtype: torch.dtype) -> None:
        """Give ``part`` the whole gradients of its parameters, by one all-reduce for all that are cut.

        Args:
            part: the fragments on this rank.
            rows: the parameters that have fragments on any rank, in the same order on every rank.
            dtype: one that holds all of them exactly, the same on every rank.
        """
        cut = [i for i in rows if self.cut_up[part.g][i]]
        sizes = [self.numel[part.g][i] for i in cut]
        joined = torch.zeros(sum(sizes), dtype=dtype, device=self.device)
        wholes = dict(zip(cut, joined.split(sizes), strict=True))
        starts = cast(list[int], self.starts(part))  # stretches, no boxes
        # where there are no elements there is nothing to step, and the whole may be on another rank
        part.grads = [None if grad is None or not grad.numel() else grad for grad in part.grads]
        found = list(zip(part.rows, part.grads, starts, strict=True))
        for i, grad, start in found:
            if grad is not None and i in wholes and self.is_first(part.g, i):
                wholes[i][start : start + grad.numel()] = grad.flatten()
        if cut:
            wholes = dict(zip(cut, self.all_reduce(joined, dist.ReduceOp.SUM).split(sizes), strict=True))
        shapes = self.shapes[part.g]
        part.wholes = [
            None if grad is None else wholes.get(i, grad).view(shapes[i]).to(grad.dtype) for i, grad, _ in found
        ]
        lengths = [0 if grad is None else grad.numel() for grad in part.grads]
        part.within = [slice(start, start + n) for start, n in zip(starts, lengths, strict=True)]


class Stretches(InPieces, ParameterLayout):
    """The base of layouts in which the optimizer has a stretch of each flattened parameter, perhaps an empty one."""

    @abstractmethod
    def start(self, p: Tensor) -> int:
        """The place of the first element of ``p`` in the flattened parameter."""

    def pieces(self, g: int, i: int) -> list[Piece]:
        p = self.filed[g][i]
        return [Piece(p, torch.Tensor.detach, self.start(p))] if p.numel() else []

    def own(self, g: int, key: Tensor, shaped: Shaped, stored: Tensor) -> dict[int, Tensor]:
        return {self.places[id(key)]: stored}

    def held(self) -> list[list[int]]:
        return [[p.numel() for p in group] for group in self.parameters]

    def covered(self) -> list[list[float]]:
        return [[p.numel() / self.copies(p) for p in group] for group in self.parameters]

    def receive(
        self, param_groups: list[dict[str, Any]], by_parameter: bool = True, wholes: bool = False
    ) -> list[Part]:
        parts = super().receive(param_groups, by_parameter)
        for part in parts if wholes else ():
            self.gather(part, part.rows, reduce(torch.promote_types, (p.dtype for p in part.keys), torch.bfloat16))
        return parts


BITS = 52
"""How many flags one float64 carries exactly."""


def pack(flags: Tensor) -> Tensor:
    """Pack ``(N,)`` bool into ``(ceil(N / 52),)`` float64, so that flags travel in the same all-reduce as the sums.

    A flag may be set on one rank at most; then the sum over the ranks is the union of their flags.
    """
    padded = nn.functional.pad(flags.to(torch.float64), (0, -len(flags) % BITS))
    return (padded.view(-1, BITS) * 2.0 ** torch.arange(BITS, device=flags.device)).sum(dim=1)


def unpack(words: Tensor, n: int) -> Tensor:
    """Unpack ``n`` flags that ``pack`` has packed."""
    bits = words.long().unsqueeze(1) >> torch.arange(BITS, device=words.device)
    return (bits & 1).flatten()[:n].bool()


def reduction_device(device: torch.device, group: dist.ProcessGroup | None) -> torch.device:
    """Return ``device`` if ``group``'s backend reduces there, else the accelerator (offload to the CPU with NCCL)."""
    # for example "cpu:gloo,cuda:nccl"
    backends = dist.get_backend_config(group or dist.group.WORLD)
    if any(part.partition(":")[0] == device.type for part in backends.split(",")):
        return device
    accelerator = torch.accelerator.current_accelerator()
    return device if accelerator is None else accelerator
