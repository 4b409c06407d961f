"""A backend in one class for its layout and one for its table entry: each rank holds some rows of every parameter.

Started on every rank, it trains beside the reference twin on whole parameters and writes what happened as JSON:
python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.sharding.toy OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from gap_hf.sharding import register
from gap_hf.sharding.backend import Backend
from gap_hf.sharding.sharded import Stretches

from .bag import CASES, Case, tensors
from .layouts import Given
from .leaving import leave
from .run_layouts import compare


def rows(whole: Tensor) -> Tensor:
    """This rank's rows of ``whole``, perhaps none."""
    return whole.tensor_split(dist.get_world_size())[dist.get_rank()].clone()


# ---------------------------------------------------------------- all that a backend needs
class PlainShards(Stretches):
    """A list of plain tensors, each some rows of a parameter."""

    def whole_shape(self, p: Tensor) -> torch.Size:
        return p.shape_of_all

    def start(self, p: Tensor) -> int:
        first = rows(torch.arange(p.shape_of_all[0]))[:1]
        return int(first) * p.shape_of_all[1:].numel() if p.numel() else 0

    def describe(self) -> str:
        return f"rows on {dist.get_world_size()} ranks"


class Toy(Backend):
    """Knows its parameters by what they remember."""

    name = "toy"

    def claims(self, optimizer: Optimizer) -> bool:
        return any(hasattr(p, "shape_of_all") for group in optimizer.param_groups for p in group["params"])

    def layout(self, optimizer: Optimizer) -> PlainShards:
        return PlainShards(optimizer.param_groups)


register(Toy())


# ---------------------------------------------------------------- and its use
class InRows(Given):
    """The bag, with its parameters cut into rows."""

    def __init__(self, case: Case, tensors: list[list[Tensor]]) -> None:
        super().__init__(case, tensors)
        for p, whole in zip(self.params, [t for block in tensors for t in block], strict=True):
            p.shape_of_all = whole.shape

    def distribute(self, i: int, tensor: Tensor) -> Tensor:
        return rows(tensor)

    def full(self) -> list[Tensor]:
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, [p.detach() for p in self.params])
        return [torch.cat(some) for some in zip(*parts, strict=True)]


def sums(layout: PlainShards) -> dict[str, Any]:
    """What ``add_up`` makes of numbers that tell the ranks apart."""
    mine = torch.tensor([[1.0, 10.0]], dtype=torch.float64) * 2 ** dist.get_rank()
    found = layout.add_up(mine)
    return {"sums": found.tolist(), "dtype": str(found.dtype), "mine": mine.tolist()}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results: dict[str, Any] = {}
    for name, case in CASES.items():
        wrapped = InRows(case, tensors())
        results[name] = compare(wrapped, case, tensors())
        results["add_up"] = sums(wrapped.optimizer.layout())
    (out / f"rank{dist.get_rank()}.json").write_text(json.dumps(results))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
