"""What must be refused: each function builds one such layout or setting and steps, and must not get through.

Started on two ranks:
python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.sharding.refusals OUT
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.testing._internal.two_tensor import TwoTensor

import gap_hf
from gap_hf.optim.reference.over import ReferenceOver
from gap_hf.sharding.deepspeed import SCALES_ONLY_FP16, installed

from ..optim.toy_family import ToySGD
from .bag import CASES, Bag, Case, build, gradients, tensors
from .layouts import FSDP1
from .leaving import leave
from .zero import Zero, deepspeed

CASE = CASES["adamw-wise"]
FLAT = [t for block in tensors() for t in block]
GRADS = gradients(FLAT, 1)[0]


def step_given(params: list[Tensor]) -> None:
    """Step with zero gradients."""
    optimizer = build(CASE, [nn.Parameter(p) for p in params])
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()


def zero(tamper: Callable[[Any], None] = lambda wrapper: None, **options: Any) -> None:
    """Read the layout under DeepSpeed, whose wrapper ``tamper`` has changed; take a step if that went well."""
    wrapped = Zero(CASE, tensors(), **options)
    tamper(wrapped.model.optimizer)
    wrapped.optimizer.layout()
    wrapped.step(GRADS)


# ---------------------------------------------------------------- torch
def flat_parameters() -> None:
    class Flat(FSDP1):
        def wrap(self, bag: nn.Module) -> nn.Module:
            return FullyShardedDataParallel(bag, use_orig_params=False, device_id=torch.device("cpu"))

    Flat(CASE, tensors()).step(GRADS)


def outside_of_fsdp1() -> None:
    class Ignoring(FSDP1):
        def wrap(self, bag: nn.Module) -> nn.Module:
            ignored = [bag.blocks[0]]
            return FullyShardedDataParallel(
                bag, use_orig_params=True, ignored_modules=ignored, device_id=torch.device("cpu")
            )

    Ignoring(CASE, tensors()).step(GRADS)


def partial_parameter() -> None:
    mesh = init_device_mesh("cpu", (2,))
    step_given([DTensor.from_local(torch.ones(4, 2), mesh, [Partial()])])


def tensor_subclass() -> None:
    step_given([TwoTensor(torch.ones(3), torch.ones(3))])


def sharded_tensor_subclass() -> None:
    mesh = init_device_mesh("cpu", (2,))
    step_given([DTensor.from_local(TwoTensor(torch.ones(3), torch.ones(3)), mesh, [Shard(0)])])


def a_mesh_of_some_ranks() -> None:
    mesh = DeviceMesh("cpu", [0])
    first = dist.get_rank() == 0
    some = DTensor.from_local(torch.ones(4 if first else 0), mesh, [Shard(0)], shape=torch.Size([4]), stride=(1,))
    step_given([some, distribute_tensor(torch.ones(4), init_device_mesh("cpu", (2,)), [Shard(0)])])


def another_order_on_each_rank() -> None:
    mesh = init_device_mesh("cpu", (2,))
    params = [distribute_tensor(torch.ones(n), mesh, [Replicate()]) for n in (4, 6)]
    step_given(params if dist.get_rank() == 0 else params[::-1])


def torch_zero() -> None:
    bag = Bag(tensors())
    for p, g in zip(bag.parameters(), FLAT, strict=True):
        p.grad = g.clone()
    ZeroRedundancyOptimizer(bag.parameters(), optimizer_class=CASE.optimizer, **CASE.options).step()


def family_of_whole_parameters() -> None:
    FSDP1(Case(ToySGD, ToySGD, {}), tensors()).step(GRADS)


def candidate_of_whole_parameters() -> None:
    FSDP1(Case(gap_hf.GapOver, ReferenceOver, {"candidates": "adamw:adafactor"}), tensors()).step(GRADS)


# ---------------------------------------------------------------- DeepSpeed
def renamed_attribute() -> None:
    zero(lambda wrapper: wrapper.__dict__.pop("partition_size"), stage=1)


def overlapping_map() -> None:
    def move(wrapper: Any) -> None:
        wrapper.round_robin_bit16_offsets[0][1] = 1

    zero(move, stage=2)


def map_with_a_hole() -> None:
    zero(lambda wrapper: wrapper.round_robin_bit16_offsets[0].pop(), stage=2)


def shortened_map() -> None:
    def shorten(wrapper: Any) -> None:
        positions = wrapper.grad_position
        first = min(positions, key=lambda key: positions[key][1])
        group, start, numel = positions[first]
        positions[first] = [group, start, numel - 1]

    zero(shorten, stage=3)


def elastic_checkpoint() -> None:
    zero(stage=2, elastic_checkpoint=True)


def universal_checkpoint() -> None:
    zero(stage=1, top={"checkpoint": {"load_universal": True}})


def secondary_partition() -> None:
    zero(stage=3, zero_hpz_partition_size=2)


def float16_without_zero() -> None:
    zero(stage=0, dtype=torch.float16)


if installed() < SCALES_ONLY_FP16:

    def bfloat16_without_zero() -> None:
        zero(stage=0, dtype=torch.bfloat16)


def parameter_elsewhere() -> None:
    """As under a version that does not record where parameters begin."""

    def move(wrapper: Any) -> None:
        vars(wrapper).pop("round_robin_bit16_offsets", None)
        second = wrapper.round_robin_bit16_groups[0][1]
        second.data = wrapper.bit16_groups_flat[0][: second.numel()].view_as(second)

    zero(move, stage=1)


def frozen_parameter() -> None:
    bag = Bag(tensors())
    bag.blocks[0].weights[1].requires_grad_(False)
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 2}}
    engine, *_ = deepspeed.initialize(model=bag, optimizer=build(CASE, list(bag.parameters())), config=config)
    engine.backward(engine([None, None, *GRADS[2:]]))
    engine.step()


def partitioned_without_an_engine() -> None:
    with deepspeed.zero.Init(config_dict_or_path={"train_batch_size": 2, "zero_optimization": {"stage": 3}}):
        layer = nn.Linear(4, 4)
    optimizer = CASE.optimizer(layer.parameters(), **CASE.options)
    optimizer.step()


# DeepSpeed keeps these two settings for the rest of the process
def sequence_parallelism() -> None:
    zero(stage=1, top={"sequence_parallel_size": 2, "data_parallel_size": 1})


def float16_autocast() -> None:
    zero(stage=1, top={"torch_autocast": {"enabled": True, "dtype": "float16"}})


REFUSALS: dict[str, Callable[[], None]] = {
    name: found
    for name, found in list(globals().items())
    if callable(found) and getattr(found, "__module__", "") == __name__ and name not in ("step_given", "zero")
}


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    messages = {}
    for name, attempt in REFUSALS.items():
        try:
            attempt()
        except Exception as error:
            messages[name] = f"{type(error).__name__}: {error}"
    (out / f"rank{dist.get_rank()}.json").write_text(json.dumps(messages))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
