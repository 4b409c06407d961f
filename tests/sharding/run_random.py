"""Random models, options and layouts, each beside the reference twin; write what happened as JSON.

Started on every rank:
python -m torch.distributed.run --standalone --nproc_per_node N -m tests.sharding.run_random SEEDS OUT
"""

import json
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import ShardingStrategy, fully_shard
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor

import gap_hf
from gap_hf.optim.reference.adam import ReferenceAdam
from gap_hf.optim.reference.sgdm import ReferenceSGDM

from .bag import Bag, Case
from .layouts import DDP, FSDP1, FSDP2, Given, Single, Wrapped
from .leaving import leave
from .run_layouts import compare
from .zero import OFFLOAD, Zero

STEPS = 12


def random_tensors(rng: random.Random) -> list[list[Tensor]]:
    """1 to 4 blocks of 1 to 4 parameters, some smaller than the number of processes."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    shapes = [
        [[rng.randint(1, 7) for _ in range(rng.choice([1, 1, 2, 2, 3]))] for _ in range(rng.randint(1, 4))]
        for _ in range(rng.randint(1, 4))
    ]
    return [[torch.randn(shape, generator=generator) for shape in block] for block in shapes]


def random_case(rng: random.Random, parameters: int) -> Case:
    """A family, its options, and 1 to 3 groups with options of their own."""
    type_ = rng.choice(["switch", "switch_parameter_wise"])
    K = rng.randint(1, 4)
    options: dict[str, Any] = {
        "type": type_,
        "hysteresis_threshold": rng.randint(1, 3),
        "soft_reset": rng.choice([0.0, 0.5, 0.9]),
        "lr_modulation": rng.random() < 0.5,
        "J_ema": rng.choice([0.0, 0.7]) if type_ == "switch" else 0.0,
    }
    beta1 = [rng.choice([0.0, 0.5, 0.8, 0.9, 0.99]) for _ in range(K)]
    home = [rng.randrange(3) for _ in range(parameters)]
    own = [{"weight_decay": rng.choice([0.0, 0.1]), "lr": rng.choice([0.0, 0.01, 0.05])} for _ in range(3)]

    def groups(params: list[Tensor]) -> list[dict[str, Any]]:
        drawn = [{"params": [p for p, g in zip(params, home, strict=True) if g == n], **own[n]} for n in range(3)]
        return [group for group in drawn if group["params"]]

    if rng.random() < 0.6:
        options["betas"] = [(b, rng.choice([0.9, 0.99])) for b in beta1]
        options["second_order_momentum_reset_mode"] = rng.choice(["none", "same", "square"])
        options["decoupled_weight_decay"] = rng.random() < 0.5
        return Case(gap_hf.Adam, ReferenceAdam, options, groups)
    return Case(gap_hf.SGDM, ReferenceSGDM, {**options, "momentum": beta1, "dampening": rng.choice([0, 0.2])}, groups)


def random_mesh(rng: random.Random) -> DeviceMesh:
    world = dist.get_world_size()
    shape = rng.choice([s for s in [(world,), (1, world), (world, 1), (2, 2)] if torch.Size(s).numel() == world])
    return init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])


class RandomPlacements(Given):
    """Each parameter sharded or replicated at random on each dimension of one mesh."""

    def __init__(self, case: Case, tensors: list[list[Tensor]], rng: random.Random) -> None:
        self.rng, self.mesh = rng, random_mesh(rng)
        self.placements: dict[int, list[Placement]] = {}
        super().__init__(case, tensors)

    def distribute(self, i: int, tensor: Tensor) -> Tensor:
        if i not in self.placements:
            kinds: list[Placement] = [Replicate(), *(Shard(d) for d in range(tensor.ndim))]
            self.placements[i] = [self.rng.choice(kinds) for _ in range(self.mesh.ndim)]
        return distribute_tensor(tensor, self.mesh, self.placements[i])


class RandomFSDP2(FSDP2):
    """Blocks wrapped or not, on a 1-D or 2-D mesh."""

    def __init__(self, case: Case, tensors: list[list[Tensor]], rng: random.Random) -> None:
        self.rng = rng
        super().__init__(case, tensors)

    def wrap(self, bag: Bag) -> nn.Module:
        mesh = random_mesh(self.rng)
        for block in bag.blocks:
            if self.rng.random() < 0.7:
                fully_shard(block, mesh=mesh, reshard_after_forward=self.rng.random() < 0.5)
        return fully_shard(bag, mesh=mesh)


class RandomFSDP1(FSDP1):
    def __init__(self, case: Case, tensors: list[list[Tensor]], rng: random.Random) -> None:
        kinds = [ShardingStrategy.FULL_SHARD, ShardingStrategy.SHARD_GRAD_OP, ShardingStrategy.NO_SHARD]
        self.strategy = rng.choice(kinds)
        super().__init__(case, tensors)


def random_zero(case: Case, tensors: list[list[Tensor]], rng: random.Random) -> Wrapped:
    options: dict[str, Any] = {"stage": rng.randint(1, 3), "micro_steps": rng.randint(1, 2)}
    if options["stage"] == 3:
        options["sub_group_size"] = rng.choice([1, 10, 30, 10**9])
        options["stage3_param_persistence_threshold"] = rng.choice([0, 5, 10**5])
    else:
        options["round_robin_gradients"] = rng.random() < 0.5
    if options["stage"] > 1 and rng.random() < 0.3:
        options |= OFFLOAD
    elif options["stage"] < 3:  # elsewhere DeepSpeed may hand on, for a missing gradient, the last one clipped twice
        options["clip"] = rng.choice([0.0, 1.0])
    return Zero(case, tensors, **options)


KINDS: list[Callable[[Case, list[list[Tensor]], random.Random], Wrapped]] = [
    lambda case, tensors, rng: (Single if dist.get_world_size() == 1 else DDP)(case, tensors),
    RandomFSDP1,
    RandomFSDP2,
    RandomPlacements,
    random_zero,
    random_zero,
]


def main(seeds: int, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = {}
    for seed in range(seeds):
        rng = random.Random(f"{seed} on {dist.get_world_size()}")  # the same on every rank
        tensors = random_tensors(rng)
        case = random_case(rng, sum(map(len, tensors)))
        wrap = KINDS[seed % len(KINDS)]
        try:
            results[seed] = compare(wrap(case, tensors, rng), case._replace(steps=STEPS), tensors)
        except Exception:
            results[seed] = {"error": traceback.format_exc()}
    (out / f"rank{dist.get_rank()}.json").write_text(json.dumps(results))
    leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
