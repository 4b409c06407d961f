"""Every layout: how its bag is wrapped, fed with gradients, and read back."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from .bag import Bag, Case, build


class Wrapped:
    """A bag under one layout, with its optimizer."""

    dtype = torch.float32
    """Of the model's parameters and gradients; the optimizer's are in fp32."""

    fills_in_zeros: str = ""
    """What the backend makes of a missing gradient: nothing, zeros if others in its 'block' have one, zeros in 'all'
    cases, or the 'last' one again."""

    clip = 0.0
    """Norm that the backend clips the gradients to; 0: it doesn't."""

    skips_infinite = False
    """Whether the backend leaves out a step whose gradients are not finite."""

    def __init__(self, case: Case, tensors: list[list[Tensor]]) -> None:
        self.model: Any = self.wrap(Bag(tensors))
        self.optimizer = build(case, list(self.model.parameters()))

    def wrap(self, bag: Bag) -> nn.Module:
        return bag

    def step(self, grads: list[Tensor | None]) -> None:
        self.optimizer.zero_grad()
        self.model(grads).backward()
        self.optimizer.step()

    def full(self) -> list[Tensor]:
        """The whole parameters."""
        return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in self.model.parameters()]


class Single(Wrapped):
    """One process."""


class DDP(Wrapped):
    def wrap(self, bag: Bag) -> nn.Module:
        return DistributedDataParallel(bag, find_unused_parameters=True)


class FSDP1(Wrapped):
    fills_in_zeros = "block"
    strategy = ShardingStrategy.FULL_SHARD
    mesh: tuple[int, ...] | None = None

    def wrap(self, bag: Bag) -> nn.Module:
        options: dict[str, Any] = {}
        if self.mesh is not None:
            options["device_mesh"] = init_device_mesh("cpu", self.mesh, mesh_dim_names=("replicate", "shard"))
        return FullyShardedDataParallel(
            bag,
            auto_wrap_policy=lambda module, recurse, **_: recurse or type(module).__name__ == "Block",
            use_orig_params=True,
            sharding_strategy=self.strategy,
            device_id=torch.device("cpu"),
            **options,
        )

    def full(self) -> list[Tensor]:
        with FullyShardedDataParallel.summon_full_params(self.model, writeback=False):
            return [p.detach().clone() for p in self.model.parameters()]


class FSDP1GradOp(FSDP1):
    strategy = ShardingStrategy.SHARD_GRAD_OP


class FSDP1NoShard(FSDP1):
    strategy = ShardingStrategy.NO_SHARD


class FSDP1Hybrid(FSDP1):
    strategy = ShardingStrategy.HYBRID_SHARD
    mesh = (2, 2)


class FSDP2(Wrapped):
    def mesh(self) -> DeviceMesh:
        return init_device_mesh("cpu", (dist.get_world_size(),))

    def wrap(self, bag: Bag) -> nn.Module:
        mesh = self.mesh()
        for block in bag.blocks:
            fully_shard(block, mesh=mesh)
        return fully_shard(bag, mesh=mesh)


class HSDP(FSDP2):
    def mesh(self) -> DeviceMesh:
        return init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))


class FSDP2TensorParallel(FSDP2):
    """``fully_shard`` over tensor-parallel parameters: strided shards where both cut the same dimension."""

    def wrap(self, bag: Bag) -> nn.Module:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        kinds = iter([Shard(0), None, Shard(1), Replicate(), Shard(0), Shard(0), None])
        for block in bag.blocks:
            for i, (p, kind) in enumerate(zip(block.weights, kinds)):  # noqa: B905
                if kind is not None:
                    block.weights[i] = nn.Parameter(distribute_tensor(p.detach(), mesh["tp"], [kind]))
            fully_shard(block, mesh=mesh["dp"])
        return fully_shard(bag, mesh=mesh["dp"])


class FSDP2LateSwap(FSDP2):
    """The optimizer is built first, on whole parameters, and handed the sharded ones later: accelerate's order."""

    def __init__(self, case: Case, tensors: list[list[Tensor]]) -> None:
        bag = Bag(tensors)
        names = {id(p): name for name, p in bag.named_parameters()}
        self.optimizer = build(case, list(bag.parameters()))
        wanted = [[names[id(p)] for p in group["params"]] for group in self.optimizer.param_groups]
        self.model = self.wrap(bag)
        sharded = dict(self.model.named_parameters())
        for group, mine in zip(self.optimizer.param_groups, wanted, strict=True):
            group["params"] = [sharded[name] for name in mine]


class Given(Wrapped, ABC):
    """Parameters laid out by hand, which are given their gradients directly."""

    def __init__(self, case: Case, tensors: list[list[Tensor]]) -> None:
        numbers = itertools.count()
        self.model = Bag([[self.distribute(next(numbers), t) for t in block] for block in tensors])
        self.params = list(self.model.parameters())
        self.optimizer = build(case, self.params)

    @abstractmethod
    def distribute(self, i: int, tensor: Tensor) -> Tensor:
        """Parameter ``i``, or its gradient, laid out."""

    def step(self, grads: list[Tensor | None]) -> None:
        for i, (p, g) in enumerate(zip(self.params, grads, strict=True)):
            p.grad = None if g is None else self.distribute(i, g)
        self.optimizer.step()

    def full(self) -> list[Tensor]:
        return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in self.params]


class TensorParallel(Given):
    """Columnwise, rowwise and replicated parameters on a mesh, and plain ones beside them."""

    def distribute(self, i: int, tensor: Tensor) -> Tensor:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        kinds = [[Shard(0)], [Replicate()], [Shard(1)], None, [Shard(2)], [Shard(0)], [Replicate()]]
        kind = kinds[i]
        return tensor.clone() if kind is None else distribute_tensor(tensor, mesh, kind)


class MixedMeshes(Given):
    """FSDP2 x tensor parallel as it looks: 2-D meshes, and 1-D ones for what tensor parallel leaves alone."""

    def __init__(self, case: Case, tensors: list[list[Tensor]]) -> None:
        self.mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        super().__init__(case, tensors)

    def distribute(self, i: int, tensor: Tensor) -> Tensor:
        placements: Any = [
            ("both", [Shard(0), Shard(1)]), ("dp", [Shard(0)]), ("both", [Shard(0), Shard(0)]), None,
            ("both", [Shard(0), Replicate()]), ("tp", [Shard(0)]), ("both", [Replicate(), Shard(0)]),
        ][i]  # fmt: skip
        if placements is None:
            return tensor.clone()
        mesh = self.mesh if placements[0] == "both" else self.mesh[placements[0]]
        return distribute_tensor(tensor, mesh, placements[1])


LAYOUTS: dict[str, tuple[int, Callable[[Case, list[list[Tensor]]], Wrapped]]] = {
    "single": (1, Single),
    "ddp": (2, DDP),
    "fsdp1": (2, FSDP1),
    "fsdp1-grad-op": (2, FSDP1GradOp),
    "fsdp1-no-shard": (2, FSDP1NoShard),
    "fsdp2": (2, FSDP2),
    "fsdp2-late-swap": (2, FSDP2LateSwap),
    "tensor-parallel": (2, TensorParallel),
    "fsdp1-on-4": (4, FSDP1),
    "fsdp1-hybrid": (4, FSDP1Hybrid),
    "fsdp2-on-4": (4, FSDP2),
    "hsdp": (4, HSDP),
    "fsdp2-tensor-parallel": (4, FSDP2TensorParallel),
    "mixed-meshes": (4, MixedMeshes),
}
"""Name -> (processes, how to wrap). Those of DeepSpeed are in ``zero.py``."""


def handed_on(
    where: str, last: list[Tensor | None], grads: list[Tensor | None], start: list[list[Tensor]]
) -> list[Tensor | None]:
    """``grads`` as a backend hands them on that ``fills_in_zeros``; ``last`` is what it handed on before."""
    found: list[Tensor | None] = []
    for tensors in start:
        i = len(found)
        block = grads[i : i + len(tensors)]
        if where == "last":
            block = [old if g is None else g for g, old in zip(block, last[i:], strict=False)]
        if where in ("all", "last") or (where == "block" and any(g is not None for g in block)):
            block = [torch.zeros_like(p) if g is None else g for g, p in zip(block, tensors, strict=True)]
        found += block
    return found


def clipped(grads: list[Tensor | None], norm: float) -> list[Tensor | None]:
    """``grads`` scaled down to ``norm`` if theirs is greater, as DeepSpeed does it."""
    total = torch.stack([g.norm() for g in grads if g is not None]).norm()
    factor = 1 / max((total + 1e-6) / norm, 1.0)
    return [None if g is None else g * factor for g in grads]
