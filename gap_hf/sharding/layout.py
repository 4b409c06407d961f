"""The vocabulary between a backend and the algorithm: fragments of parameters, and one reduction per step."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(slots=True, eq=False)
class Part:
    """What one call of ``step`` was handed of one group: N fragments, as plain local tensors, column by column.

    A fragment is the part of one parameter that lives on this rank.

    Attributes:
        g: the group's number.
        group: the parameter group.
        rows: each fragment's parameter, by its place in the group.
        keys: the tensors under which ``optimizer.state`` files the buffers.
        values: the elements themselves.
        grads: their gradients, of the values' shapes; None where the parameter took no part in the loss.
        cuts: for each fragment a function that cuts it out of a tensor which is laid out like its key, as a view; None
            where a fragment is all of it.
        copies: how many ranks hold this very fragment.
    """

    g: int
    group: dict[str, Any]
    rows: tuple[int, ...]
    keys: list[Tensor]
    values: list[Tensor]
    grads: list[Tensor | None]
    cuts: Sequence[Callable[[Tensor], Tensor]] | None
    copies: tuple[int, ...]

    def select(self, chosen: Sequence[int]) -> "Part":
        """The fragments ``chosen``, by their places in the columns."""
        if len(chosen) == len(self.rows):
            return self
        keys, values = ([column[i] for i in chosen] for column in (self.keys, self.values))
        grads = [self.grads[i] for i in chosen]
        cuts = None if self.cuts is None else [self.cuts[i] for i in chosen]
        rows, copies = (tuple(column[i] for i in chosen) for column in (self.rows, self.copies))
        return Part(self.g, self.group, rows, keys, values, grads, cuts, copies)

    def with_grad(self) -> "Part":
        """The fragments that have a gradient."""
        if all(grad is not None for grad in self.grads):
            return self
        return self.select([i for i, grad in enumerate(self.grads) if grad is not None])

    def gradients(self) -> list[Tensor]:
        """``grads``, where every fragment has one."""
        return cast(list[Tensor], self.grads)

    def local(self, tensors: list[Tensor]) -> list[Tensor]:
        """The fragments of ``tensors``, which are laid out like the keys."""
        return tensors if self.cuts is None else [cut(t) for cut, t in zip(self.cuts, tensors, strict=True)]


State = Mapping[Tensor, dict[str, Tensor]]
"""``optimizer.state``."""


class Piece(NamedTuple):
    """A stretch of a parameter on this rank.

    Attributes:
        key: the tensor under which its buffers are filed.
        local: cuts it out of such a buffer.
        offset: its first element's place in the flattened parameter.
    """

    key: Tensor
    local: Callable[[Tensor], Tensor]
    offset: int


class Layout(ABC):
    """How the parameters of one optimizer lie over processes.

    Attributes:
        parameters: the tensors that the module registered, group by group: the same rows on every rank.
        shapes: those of the whole parameters, wherever their elements lie.
        device: where scores are added up.
    """

    parameters: list[list[Tensor]]
    shapes: list[list[torch.Size]]
    device: torch.device

    @cached_property
    def numel(self) -> list[list[int]]:
        """The element counts of the whole parameters."""
        return [[shape.numel() for shape in group] for group in self.shapes]

    @abstractmethod
    def fits(self, param_groups: list[dict[str, Any]]) -> bool:
        """Whether this is still the layout of ``param_groups``."""

    @abstractmethod
    def receive(self, param_groups: list[dict[str, Any]], by_parameter: bool = True) -> list[Part]:
        """The fragments that this call of ``step`` was handed.

        Args:
            param_groups: what the optimizer holds during this call.
            by_parameter: cut flat tensors at the parameters' borders; otherwise each tensor is one fragment.

        Raises:
            RuntimeError: something in them cannot be told to be what the layout says.
        """

    def complete(self) -> bool:
        """Whether everything of this step has been received. False where the backend calls ``step`` once per group."""
        return True

    def publish(self) -> None:  # noqa: B027
        """Hand the new values back to the backend, where it has already copied the old ones."""

    def abandon(self) -> None:  # noqa: B027
        """Forget what was received of a step that failed or was interrupted."""

    def was_interrupted(self, param_groups: list[dict[str, Any]]) -> bool:
        """Whether a step had begun that this call of ``step`` does not go on with."""
        return False

    reduces = False
    """Whether ranks hold different elements, so that ``reduce`` adds something up."""

    loads_by_stepping = False
    """Whether torch's checkpoints, which allocate the state by a step of zeros, can be loaded in this layout."""

    def verify(self) -> None:  # noqa: B027
        """Make sure, once and together with the other ranks, that every element is covered exactly once.

        Raises:
            RuntimeError: it is not, or the ranks hold different parameters.
        """

    def reduce(self, tables: list[Tensor], live: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Add up each group's ``(P, S)`` partial sums over the ranks that hold different elements.

        Args:
            tables: this rank's sums, float64, one row per parameter.
            live: which parameters have a gradient, ``(P,)`` bool, as far as this rank knows.

        Returns:
            The same over all ranks. Nothing is communicated where every rank holds whole parameters.
        """
        return tables, live

    def maximum(self, values: Tensor) -> Tensor:
        """The maximum of ``values`` over the ranks that hold different elements."""
        return values

    @abstractmethod
    def keys(self, g: int, i: int) -> list[Tensor]:
        """The tensors under which ``optimizer.state`` files what this rank holds of parameter ``i`` of group ``g``."""

    @abstractmethod
    def whole(self, g: int, i: int, state: State, name: str, dtype: torch.dtype) -> Tensor:
        """The buffer ``name`` of parameter ``i`` of group ``g``, in the parameter's shape. Every rank must ask.

        Args:
            g: the group.
            i: the parameter's place in it.
            state: the optimizer's, in which ``keys(g, i)`` are found.
            name: of the buffer.
            dtype: that it is stored in, also for a rank that holds nothing of it.
        """


class ParameterLayout(Layout):
    """A layout in which the optimizer's own tensors are the parameters, or one slice of each."""

    loads_by_stepping = True

    def __init__(self, param_groups: list[dict[str, Any]]) -> None:
        self.parameters = self.filed = [list(group["params"]) for group in param_groups]
        self.shapes = [[self.whole_shape(p) for p in group] for group in self.parameters]
        self.device = next((p.device for group in self.parameters for p in group), torch.device("cpu"))

    def whole_shape(self, p: Tensor) -> torch.Size:
        """The shape of the whole parameter."""
        return p.shape

    cut: Callable[[Tensor], Tensor] | None = None
    """Gives this rank's plain part of a parameter or buffer; None where it is the tensor itself."""

    def grads(self, keys: list[Tensor]) -> list[Tensor | None]:
        """This rank's plain parts of the gradients."""
        return [p.grad for p in keys]

    def copies(self, p: Tensor) -> int:
        """How many ranks hold this very part."""
        return 1

    def keys(self, g: int, i: int) -> list[Tensor]:
        return [self.filed[g][i]]

    def whole(self, g: int, i: int, state: State, name: str, dtype: torch.dtype) -> Tensor:
        return state[self.filed[g][i]][name]

    def fits(self, param_groups: list[dict[str, Any]]) -> bool:
        return [len(group["params"]) for group in param_groups] == [len(group) for group in self.parameters] and all(
            p is mine
            for group, known in zip(param_groups, self.parameters, strict=True)
            for p, mine in zip(group["params"], known, strict=True)
        )

    @cached_property
    def counted_copies(self) -> list[tuple[int, ...]]:
        """``copies`` of all parameters, group by group."""
        return [tuple(self.copies(p) for p in group) for group in self.parameters]

    def receive(self, param_groups: list[dict[str, Any]], by_parameter: bool = True) -> list[Part]:
        parts = []
        for g, group in enumerate(param_groups):
            keys = group["params"]
            values, cuts = keys, None
            if self.cut is not None:
                values, cuts = [self.cut(p) for p in keys], [self.cut] * len(keys)
            grads = self.grads(keys)
            check_plain(values, grads, f"parameter {{}} of group {g}")
            parts.append(Part(g, group, tuple(range(len(keys))), keys, values, grads, cuts, self.counted_copies[g]))
        return parts


PLAIN = {Tensor, nn.Parameter, nn.Buffer}
layout_of = attrgetter("layout")


def check_plain(values: list[Tensor], grads: list[Tensor | None], name: str) -> None:
    """Raise RuntimeError, with ``name`` formatted by the place, unless values and gradients are ordinary and dense."""
    there = [grad for grad in grads if grad is not None]
    types = {*map(type, values), *map(type, there)}
    if types <= PLAIN and {torch.strided}.issuperset(map(layout_of, there)):
        return
    for i, (value, grad) in enumerate(zip(values, grads, strict=True)):
        where = name.format(i)
        if grad is not None and grad.layout != torch.strided:
            raise RuntimeError(
                f"the gradient of {where} is sparse, which gap_hf does not support; build the layer with sparse=False"
            )
        for part, tensor in (("", value), ("the gradient of ", grad)):
            if tensor is not None and type(tensor) not in PLAIN:
                raise RuntimeError(
                    f"{part}{where} is a {type(tensor).__module__}.{type(tensor).__qualname__}, a tensor subclass that "
                    "gap_hf does not know. It takes plain tensors, DTensors of plain tensors, and what FSDP1 and "
                    "DeepSpeed ZeRO make of them."
                )


class ShardedMixin(Layout):
    """The reduction of all layouts in which ranks hold different elements: one all-reduce per step."""

    reduces = True

    group: dist.ProcessGroup | None = None
    """The ranks that hold the model between them; None is the default group, all ranks."""

    owned: Tensor | None = None
    """``(all P,)`` bool: the parameters of which this rank alone reports whether there is a gradient.

    Where a rank without elements of a parameter cannot know that it has one elsewhere; None where all ranks know.
    """

    def verify(self) -> None:
        # The optimizer's lists come from the same script on every rank; where they do not agree, the reduction would
        # add apples to pears, or never return.
        description = repr((type(self).__name__, self.shapes, self.describe()))
        digest = int.from_bytes(hashlib.sha256(description.encode()).digest()[:6], "big")
        both_ends = self.all_reduce(torch.tensor([digest, -digest], device=self.device), dist.ReduceOp.MAX).tolist()
        if both_ends != [digest, -digest]:
            raise RuntimeError(
                "the ranks hand gap_hf different parameters, or the same ones in another order or cut differently. "
                f"Rank {dist.get_rank()} holds {[len(group) for group in self.numel]} parameters per group with "
                f"{[sum(group) for group in self.numel]} elements, {self.describe()}. Every rank must build the "
                "optimizer from the same model and in the same order (pipeline stages each need their own optimizer "
                "and are not supported)."
            )
        mine = torch.tensor([n for group in self.covered() for n in group], dtype=torch.float64, device=self.device)
        covered = self.all_reduce(mine, dist.ReduceOp.SUM).tolist()
        names = [(g, i) for g, group in enumerate(self.numel) for i in range(len(group))]
        for (g, i), found, expected in zip(names, covered, (n for group in self.numel for n in group), strict=True):
            if abs(found - expected) > 0.5:
                amount = "overlap with others" if math.isinf(found) else f"make {found:g}"
                raise RuntimeError(
                    f"parameter {i} of group {g} has {expected} elements, but its fragments on all ranks {amount}: "
                    f"gap_hf does not read this layout rightly ({self.describe()}) and would choose by wrong scores. "
                    "Please report it with the versions of torch, accelerate and deepspeed."
                )

    @abstractmethod
    def covered(self) -> list[list[float]]:
        """For every parameter the number of its elements on this rank, divided by the ranks that hold the same.

        Infinity for one that shares elements with another parameter.
        """

    @abstractmethod
    def describe(self) -> str:
        """The layout in words, the same on every rank."""

    def all_reduce(self, tensor: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
        """All-reduce over the ranks, on a device that their backend can reduce on."""
        if dist.get_world_size(self.group) == 1:
            return tensor
        place = reduction_device(tensor.device, self.group)
        moved = tensor.to(place)
        dist.all_reduce(moved, op, group=self.group)
        return moved.to(tensor.device)

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


class InPieces(ShardedMixin):
    """Sharded layouts whose buffers are stretches of flattened parameters."""

    @abstractmethod
    def pieces(self, g: int, i: int) -> list[Piece]:
        """The stretches of parameter ``i`` of group ``g`` that this rank holds and no rank before it."""

    def whole(self, g: int, i: int, state: State, name: str, dtype: torch.dtype) -> Tensor:
        found = [(state[piece.key][name], piece) for piece in self.pieces(g, i)]
        device = found[0][0].device if found else self.keys(g, i)[0].device
        whole = torch.zeros(self.numel[g][i], dtype=dtype, device=device)
        for stored, piece in found:
            part = piece.local(stored).flatten()
            whole[piece.offset : piece.offset + len(part)] = part
        return self.all_reduce(whole, dist.ReduceOp.SUM).view(self.shapes[g][i])


BITS = 52
"""How many flags one float64 carries exactly."""


def pack(flags: Tensor) -> Tensor:
    """``(N,)`` bool as ``(ceil(N / 52),)`` float64, so that flags travel in the same all-reduce as the sums.

    Each flag may be set on one rank only: then the sum over ranks is their union.
    """
    padded = nn.functional.pad(flags.to(torch.float64), (0, -len(flags) % BITS))
    return (padded.view(-1, BITS) * 2.0 ** torch.arange(BITS, device=flags.device)).sum(dim=1)


def unpack(words: Tensor, n: int) -> Tensor:
    """What ``pack`` made of ``n`` flags."""
    bits = words.long().unsqueeze(1) >> torch.arange(BITS, device=words.device)
    return (bits & 1).flatten()[:n].bool()


def reduction_device(device: torch.device, group: dist.ProcessGroup | None) -> torch.device:
    """``device`` if ``group``'s backend reduces there, else the accelerator (parameters offloaded to the CPU, NCCL)."""
    # for example "cpu:gloo,cuda:nccl"
    backends = dist.get_backend_config(group or dist.group.WORLD)
    if any(part.partition(":")[0] == device.type for part in backends.split(",")):
        return device
    accelerator = torch.accelerator.current_accelerator()
    return device if accelerator is None else accelerator
