"""The backend of DTensors: FSDP2 (``fully_shard``), HSDP, tensor parallel, and any mesh of these."""

import math
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter, eq
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim import Optimizer

from .backend import Backend
from .layout import ParameterLayout, Shaped, State, grad_of
from .part import Part
from .refusal import Refusal
from .sharded import Sharded

PARTIAL = Refusal(
    "DTensor parameters left `Partial`",
    "the value is not settled; gap_hf takes parameters that are sharded or replicated on each mesh dimension",
    "call `redistribute` first",
    in_running=lambda p: isinstance(p, DTensor) and any(placement.is_partial() for placement in p.placements),
)


local_of, placements_of = attrgetter("_local_tensor"), attrgetter("_spec.placements")


def local_part(tensor: Tensor) -> Tensor:
    """Return this rank's plain part of a saved buffer, which is the buffer itself unless it is a DTensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class LocalParts:
    """Cuts this rank's plain parts out of DTensors, and takes plain tensors as they are.

    A method for each tensor would take longer than a small tensor's update. Without gradients ``to_local`` returns the
    same, or a view of it.
    """

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        if {DTensor}.issuperset(map(type, tensors)):
            return list(map(local_of, tensors))
        return list(map(local_part, tensors))

    def select(self, chosen: Sequence[int]) -> "LocalParts":
        """Return itself: every tensor is cut in the same way."""
        return self


def cut_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of the same shape are cut over the same ranks in the same way."""
    if isinstance(one, DTensor) and isinstance(other, DTensor):
        return one.placements == other.placements and one.device_mesh == other.device_mesh
    return isinstance(one, DTensor) == isinstance(other, DTensor)


def gathered(local: Tensor, p: Tensor) -> Tensor:
    """Return the whole tensor of which every rank has the piece ``local``, cut like ``p``."""
    if not isinstance(p, DTensor):
        return local
    given = DTensor.from_local(local, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride())
    return given.full_tensor()


def place_of(p: Tensor) -> slice | Tensor:
    """Where this rank's elements of ``p`` are in the whole, flattened.

    Rows that one mesh dimension divides are simple. Otherwise each rank numbers its elements, and where its own numbers
    end up in the whole, there they belong: so the placements need not be understood.
    """
    if not isinstance(p, DTensor):
        return slice(0, p.numel())
    cuts = [placement for placement in p.placements if not placement.is_replicate()]
    if [*cuts] == [Shard(0)] and type(cuts[0]) is Shard:
        _, (row, *_) = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
        first = row * math.prod(p.shape[1:])
        return slice(first, first + p.to_local().numel())
    local, mine = p.to_local(), dist.get_rank() * p.numel()
    numbers = gathered(torch.arange(local.numel(), device=local.device).view(local.shape) + mine, p).flatten() - mine
    here = ((numbers >= 0) & (numbers < local.numel())).nonzero().flatten()
    indices = torch.empty_like(here).scatter_(0, numbers[here], here)
    if not len(indices):
        return slice(0, 0)
    first = int(indices[0])
    in_a_row = bool((indices == torch.arange(len(indices), device=indices.device) + first).all())
    return slice(first, first + len(indices)) if in_a_row else indices


def local_grad(p: Tensor) -> Tensor | None:
    """Return this rank's plain part of the gradient of ``p``."""
    grad = p.grad
    if isinstance(p, DTensor) and isinstance(grad, DTensor) and grad.placements != p.placements:
        # tensor parallel may leave a gradient Partial; torch.optim redistributes it inside its first operation
        grad = grad.redistribute(placements=p.placements)
    return None if grad is None else local_part(grad)


class Meshes(Sharded, ParameterLayout):
    """The layout of parameters sharded over device meshes; a plain parameter counts as replicated on every rank.

    Raises:
        RuntimeError: a parameter is left partially reduced.
    """

    def __init__(self, param_groups: list[dict[str, Any]]) -> None:
        for g, group in enumerate(param_groups):
            for i, p in enumerate(group["params"]):
                if PARTIAL.is_running(p):
                    raise RuntimeError(PARTIAL.message(f"parameter {i} of group {g} has the placements {p.placements}"))
        super().__init__(param_groups)
        self.within: dict[int, slice | Tensor] = {}  # by the parameter's identity

    def place(self, p: Tensor) -> slice | Tensor:
        """Where this rank's elements of ``p`` are in the whole, flattened. Every rank must call it."""
        if id(p) not in self.within:
            self.within[id(p)] = place_of(p)
        return self.within[id(p)]

    def receive(
        self, param_groups: list[dict[str, Any]], by_parameter: bool = True, wholes: bool = False
    ) -> list[Part]:
        parts = super().receive(param_groups, by_parameter)
        for part in parts if wholes else ():
            part.wholes = [
                None if grad is None else gathered(grad, p) for p, grad in zip(part.keys, part.grads, strict=True)
            ]
            part.within = [self.place(p) for p in part.keys]
        return parts

    cut = LocalParts()

    def grads(self, keys: list[Tensor]) -> list[Tensor | None]:
        grads = list(map(grad_of, keys))
        sharded = {DTensor}.issuperset(map(type, chain(keys, grads)))
        if sharded and all(map(eq, map(placements_of, keys), map(placements_of, grads))):
            return [*self.cut(grads)]
        return list(map(local_grad, keys))

    def copies(self, p: Tensor) -> int:
        world = dist.get_world_size()
        if not isinstance(p, DTensor):
            return world
        mesh = p.device_mesh
        replicas = math.prod(mesh.size(d) for d, placement in enumerate(p.placements) if placement.is_replicate())
        # ranks outside the mesh hold the same again: the data-parallel copies of a tensor-parallel mesh
        return replicas * world // mesh.size()

    def start(self, p: Tensor) -> int | tuple[int, ...]:
        if not isinstance(p, DTensor):
            return 0
        _, offset = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
        return tuple(offset)

    def whole(
        self, g: int, i: int, state: State, name: str, dtype: torch.dtype, shaped: Shaped | None = None
    ) -> Tensor:
        found = state[self.filed[g][i]][name]
        return found.full_tensor() if isinstance(found, DTensor) else found

    def fill(self, g: int, i: int, state: State, name: str, whole: Tensor, shaped: Shaped | None = None) -> None:
        p = self.filed[g][i]
        local = local_part(state[p][name])
        local.copy_(whole if shaped is not None else whole.flatten()[self.place(p)].view(local.shape))

    def covered(self) -> list[list[float]]:
        return [[local_part(p).numel() / self.copies(p) for p in group] for group in self.parameters]

    def describe(self) -> str:
        kinds = {
            f"{p.placements} on a mesh of {tuple(p.device_mesh.shape)}" if isinstance(p, DTensor) else "plain"
            for group in self.parameters
            for p in group
        }
        return "DTensors: " + ", ".join(sorted(kinds))


class DTensors(Backend):
    """The backend of FSDP2, HSDP and tensor parallel, where at least one parameter is a DTensor."""

    name = "FSDP2, HSDP, tensor parallel"
    refusals = (PARTIAL,)

    def claims(self, optimizer: Optimizer) -> bool:
        return any(isinstance(p, DTensor) for group in optimizer.param_groups for p in group["params"])

    def layout(self, optimizer: Optimizer) -> Meshes:
        return Meshes(optimizer.param_groups)
