"""The layouts that DeepSpeed's wrappers make: ZeRO 0 in half precision, and 1 to 3.

ZeRO flattens each parameter group, gives every rank an equal stretch of it (with padding behind) in place of the
parameters, and calls ``step`` once per group (ZeRO 1 and 2) or per sub-group (ZeRO 3), copying the new values to the
model after each call. GAP has to see all of them before it can move one, so it only observes until the last call, and
then repeats the copies that came too early. The maps from flat stretches to parameters are read from DeepSpeed's own
objects (checked with 0.18.4 to 0.19.8), and checked before they are used: they must cover each element exactly once.
"""

import importlib.metadata
import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from packaging.version import Version
from torch import Tensor
from torch.optim import Optimizer

from .layout import ParameterLayout, Shaped
from .part import Part, Piece, Start, check_plain
from .refusal import Refusal
from .sharded import InPieces
from .slices import Flat, Slice, Slices, cut_out, one_after_another

DROPPED = Refusal(
    "frozen or empty parameters in the optimizer",
    "it drops frozen and empty ones, so the choices would be listed under wrong names",
    "build the optimizer from those that require a gradient: `[p for p in model.parameters() if p.requires_grad]`",
    in_running=lambda kept, given: kept != given,
)


OLDEST, NEWEST = Version("0.18.4"), Version("0.19.8")
"""The versions of DeepSpeed that were tried."""


def installed() -> Version:
    """The version of DeepSpeed; the newest that was tried if there is none."""
    try:
        return Version(importlib.metadata.version("deepspeed"))
    except importlib.metadata.PackageNotFoundError:
        return NEWEST


class HalfPrecision(ParameterLayout):
    """The layout of ZeRO 0 in bf16 or fp16: every rank holds whole fp32 copies of the parameters."""

    def __init__(self, optimizer: Optimizer, wrapper: Any) -> None:
        super().__init__([{"params": group} for group in wrapper.fp32_groups])
        self.parameters = [list(group) for group in wrapper.fp16_groups]

    def fits(self, param_groups: list[dict[str, Any]]) -> bool:
        return all(g["params"] and g["params"][0] is mine[0] for g, mine in zip(param_groups, self.filed, strict=True))

    def check_count(self, g: int, given: int) -> None:
        refuse_dropped(g, given, len(self.numel[g]))

    def update_model(self) -> None:
        for copies, masters in zip(self.parameters, self.filed, strict=True):
            for copy, master in zip(copies, masters, strict=True):
                copy.data.copy_(master.data)


class Zero(InPieces):
    """The base of ZeRO 1 to 3: flat tensors, of which one or more arrive per call."""

    counts_together = True  # a count belongs to a flat tensor

    def __init__(self, optimizer: Optimizer, wrapper: Any) -> None:
        self.optimizer, self.wrapper = optimizer, wrapper
        self.group = wrapper.dp_process_group
        self.parameters = self.read_parameters()
        self.shapes = [[self.whole_shape(p) for p in group] for group in self.parameters]
        self.flats = self.read_flats()
        self.device = self.flats[0].key.device
        self.known = {id(flat.key): flat for flat in self.flats}
        self.received: list[Flat] = []

    @abstractmethod
    def read_parameters(self) -> list[list[Tensor]]:
        """Read the model's parameters, group by group, in the optimizer's order."""

    @abstractmethod
    def read_flats(self) -> list[Flat]:
        """Read all flat tensors of this rank, in the order in which they arrive."""

    def copy_back(self, flats: list[Flat]) -> None:
        """Repeat DeepSpeed's copy of ``flats`` to the model."""

    def whole_shape(self, p: Tensor) -> torch.Size:
        """The shape of the whole parameter."""
        return p.shape

    def fits(self, param_groups: list[dict[str, Any]]) -> bool:
        return self.wrapper.optimizer is self.optimizer

    def check_count(self, g: int, given: int) -> None:
        refuse_dropped(g, given, len(self.numel[g]))

    def receive(
        self, param_groups: list[dict[str, Any]], by_parameter: bool = True, wholes: bool = False
    ) -> list[Part]:
        parts = []
        for group in param_groups:
            for key in group["params"]:
                flat = self.known.get(id(key))
                if flat is None:
                    raise RuntimeError(
                        "DeepSpeed handed step() an unknown flat tensor; gap_hf reads its layout once, before the "
                        "first step, and can't follow a change"
                    )
                self.received.append(flat)
                check_plain([key], [key.grad], f"the flat tensor of group {flat.g}")
                cut = flat.cut if by_parameter else Slices([Slice(0, 0, key.numel(), 0)])
                keys, grad = [key] * len(cut.rows), key.grad
                grads: list[Any] = [None] * len(keys) if grad is None else cut([grad] * len(keys))
                parts.append(Part(flat.g, group, cut.rows, keys, cut(keys), grads, cut, (1,) * len(keys)))
                if wholes:
                    self.gather(parts[-1], flat.rows, key.dtype)
        return parts

    def starts(self, part: Part) -> list[Start]:
        if not part.rows:
            return []
        offsets = {cut.row: cut.offset for cut in self.known[id(part.keys[0])].slices}
        return [offsets[row] for row in part.rows]

    def complete(self) -> bool:
        return len(self.received) == len(self.flats)

    def abandon(self) -> None:
        self.received = []

    def was_interrupted(self, param_groups: list[dict[str, Any]]) -> bool:
        # between two calls: what arrives is what had arrived already
        return any(self.known.get(id(key)) in self.received for group in param_groups for key in group["params"])

    def reduce(self, tables: list[Tensor], live: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        # DeepSpeed fills in zeros where a parameter took no part in the loss: all of them have a gradient, also those
        # of which this rank holds nothing
        return super().reduce(tables, [torch.ones_like(flags) for flags in live])

    def publish(self) -> None:
        received, self.received = self.received, []
        self.copy_back(received[:-1])  # the last one is copied by DeepSpeed when this call returns

    def keys(self, g: int, i: int) -> list[Tensor]:
        # also of those that hold nothing of it: DeepSpeed gives every group or sub-group one on every rank
        return [flat.key for flat in self.flats if flat.g == g]

    @cached_property
    def all_pieces(self) -> dict[tuple[int, int], list[Piece]]:
        """The ``pieces`` of all parameters of which this rank holds something."""
        found: dict[tuple[int, int], list[Piece]] = {}
        for flat in self.flats:
            for cut in flat.slices:
                found.setdefault((flat.g, cut.row), []).append(Piece(flat.key, cut.narrow(), cut.offset))
        return found

    def pieces(self, g: int, i: int) -> list[Piece]:
        return self.all_pieces.get((g, i), [])

    def shapes_in(self, g: int, key: Tensor) -> list[torch.Size]:
        return [self.shapes[g][cut.row] for cut in self.known[id(key)].slices]

    def own(self, g: int, key: Tensor, shaped: Shaped, stored: Tensor) -> dict[int, Tensor]:
        rows = [cut.row for cut in self.known[id(key)].slices]
        shapes = [shaped(shape) for shape in self.shapes_in(g, key)]
        parts = stored.flatten().split([shape.numel() for shape in shapes])
        return {row: part.view(shape) for row, part, shape in zip(rows, parts, shapes, strict=True)}

    def shaped(self, part: Part, shaped: Shaped, column: list[Tensor]) -> list[Tensor]:
        if not part.rows:
            return []
        found = self.own(part.g, part.keys[0], shaped, column[0])  # a part's fragments lie in one flat tensor
        return [found[row] for row in part.rows]

    def held(self) -> list[list[int]]:
        counts = [[0] * len(group) for group in self.numel]
        for flat in self.flats:
            for cut in flat.slices:
                counts[flat.g][cut.row] += cut.numel
        return counts

    def covered(self) -> list[list[float]]:
        counts = [[0.0] * len(group) for group in self.numel]
        for flat in self.flats:
            end = 0
            for cut in sorted(flat.slices, key=lambda cut: cut.start):
                overlaps = cut.start < end or cut.start + cut.numel > flat.key.numel()
                end = cut.start + cut.numel
                # not raised here, on one rank: the others would wait for it
                counts[flat.g][cut.row] += math.inf if overlaps else cut.numel
        return counts

    def describe(self) -> str:
        return f"{type(self.wrapper).__name__} over {dist.get_world_size(self.group)} ranks"


class Zero12(Zero):
    """The layout of ZeRO 1 and 2: one flat tensor per group, in equal stretches, of which rank r holds the r-th."""

    def read_parameters(self) -> list[list[Tensor]]:
        return [list(group) for group in self.wrapper.bit16_groups]

    def read_flats(self) -> list[Flat]:
        z = self.wrapper
        flats = []
        for g, key in enumerate(z.single_partition_of_fp32_groups):
            # The order in memory: with round_robin_gradients another than the group's, and then _hp_mapping is wrong.
            # Shapes from the metadata, as the parameters' own storage may be offloaded.
            sizes = [meta.numel() for meta in z.round_robin_bit16_meta[g]]
            index = {id(p): i for i, p in enumerate(self.parameters[g])}
            order = [index[id(p)] for p in z.round_robin_bit16_groups[g]]
            recorded = hasattr(z, "round_robin_bit16_offsets")
            starts = z.round_robin_bit16_offsets[g] if recorded else self.unrecorded_starts(g, sizes)
            length = int(z.partition_size[g])  # a float before DeepSpeed 0.19
            begin = dist.get_rank(z.real_dp_process_group[g]) * length
            slices = cut_out(order, starts, sizes, begin, length)
            flats.append(Flat(g, key, range(len(sizes)), slices))
        return flats

    def unrecorded_starts(self, g: int, sizes: list[int]) -> list[int]:
        """Return where parameters begin in the flat tensor of group ``g``; DeepSpeed records it since 0.19.7.

        Before, it padded only the end of the flat tensor.

        Raises:
            ValueError: the model's parameters, which are views of it, lie elsewhere, or this version is not tested.
        """
        if installed() < OLDEST:
            raise ValueError(f"it is older than {OLDEST}")
        starts = one_after_another(sizes)
        flat = self.wrapper.bit16_groups_flat[g]
        for p, start in zip(self.wrapper.round_robin_bit16_groups[g], starts, strict=True):
            # offloaded parameters are no views
            is_view = p.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
            if is_view and p.storage_offset() - flat.storage_offset() != start:
                raise ValueError(f"a parameter of group {g} begins at {p.storage_offset()}, not at {start}")
        return starts

    def copy_back(self, flats: list[Flat]) -> None:
        z = self.wrapper
        for flat in flats:
            partitions = z.parallel_partitioned_bit16_groups[flat.g]
            partitions[dist.get_rank(z.real_dp_process_group[flat.g])].data.copy_(flat.key.data)

    def update_model(self) -> None:
        self.wrapper.update_lp_params()


class Zero1BF16(Zero):
    """The layout of ZeRO 1 in bf16 with fp32 gradient accumulation: like ``Zero12``, but groups arrive in one call."""

    def read_parameters(self) -> list[list[Tensor]]:
        return [list(group) for group in self.wrapper.bf16_groups]

    def read_flats(self) -> list[Flat]:
        z = self.wrapper
        flats = []
        for g, key in enumerate(z.fp32_groups_flat_partition):
            sizes = self.numel[g]
            starts = one_after_another(sizes)
            begin = dist.get_rank(z.real_dp_process_group[g]) * key.numel()
            rows = range(len(sizes))
            flats.append(Flat(g, key, rows, cut_out(rows, starts, sizes, begin, key.numel())))
        return flats

    def update_model(self) -> None:
        self.wrapper.update_lp_params()


class Zero3(Zero):
    """The layout of ZeRO 3: parameters are cut into equal pieces, one per rank; a flat tensor holds a sub-group's."""

    def read_parameters(self) -> list[list[Tensor]]:
        z = self.wrapper
        groups: list[list[Tensor]] = [[] for _ in self.optimizer.param_groups]
        for sub_group, params in enumerate(z.fp16_groups):
            groups[z.sub_group_to_group_id[sub_group]] += params
        return groups

    def whole_shape(self, p: Any) -> torch.Size:
        return p.ds_shape  # its own is that of an empty tensor

    def read_flats(self) -> list[Flat]:
        z = self.wrapper
        index = {id(p): i for group in self.parameters for i, p in enumerate(group)}
        flats = []
        for sub_group, (key, params) in enumerate(zip(z.fp32_partitioned_groups_flat, z.fp16_groups, strict=True)):
            slices = []
            for p in params:
                _, start, length = z.grad_position[z.get_param_id(p)]
                offset = dist.get_rank(p.ds_process_group) * length
                numel = max(0, min(length, p.ds_numel - offset))  # the rest of the last pieces is padding
                if numel:
                    slices.append(Slice(index[id(p)], start, numel, offset))
            rows = [index[id(p)] for p in params]
            flats.append(Flat(z.sub_group_to_group_id[sub_group], key, rows, slices))
        return flats

    @contextmanager
    def listed(self) -> Iterator[None]:
        self.wrapper._set_fp32_optimizer_param_groups()
        try:
            yield
        finally:
            self.wrapper._clear_fp32_optimizer_param_groups()

    def copy_back(self, flats: list[Flat]) -> None:
        positions = {id(key): i for i, key in enumerate(self.wrapper.fp32_partitioned_groups_flat)}
        for flat in flats:
            self.wrapper._reassign_or_swap_out_partitioned_parameters(positions[id(flat.key)])

    def update_model(self) -> None:
        # as around the loading of a checkpoint: whole parameters are let go, and persistent ones gathered again
        self.wrapper.checkpoint_event_prologue()
        self.copy_back(self.flats)
        self.wrapper.checkpoint_event_epilogue()


def refuse_dropped(g: int, given: int, kept: int) -> None:
    """Raise RuntimeError if DeepSpeed has ``kept`` another number of parameters than ``given`` in group ``g``."""
    if DROPPED.is_running(kept, given):
        raise RuntimeError(DROPPED.message(f"DeepSpeed optimizes {kept} of the {given} parameters of group {g}"))
