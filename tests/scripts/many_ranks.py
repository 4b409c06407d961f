"""The host's part of a step on thousands of ranks, on one machine: python -m tests.scripts.many_ranks

The process group is torch's fake one: this process is one of many, nothing is sent, and an all-reduce leaves what this
rank gave. Parameters have the shapes of Llama's, but one column instead of thousands, since the host's part depends on
how many there are and not on how large they are. Each case is a process of its own and prints a line: the bytes of the
reductions of a step, the CPU time of the host in the first step, in finding out and checking the layout in it, and in
later ones, and what Python holds for the layout.

DeepSpeed's wrapper of ZeRO 3 is replaced by an object with the tables that gap_hf reads; its own calls are not timed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import thread_time
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

import gap_hf
from gap_hf.sharding import register
from gap_hf.sharding.backend import Backend
from gap_hf.sharding.sharded import Sharded
from gap_hf.sharding.zero import Zero3

SUB_GROUP = 10**9
"""Elements of a sub-group of ZeRO 3, by DeepSpeed's default; ``step`` is called once for each."""

Shapes = Sequence[tuple[int, int]]
Build = Callable[[list[Any]], Any]


def llama(hidden: int, kv: int, between: int, layers: int) -> Shapes:
    """List the shapes of Llama's parameters, a norm's as one column."""
    attention = [(hidden, hidden), (kv, hidden), (kv, hidden), (hidden, hidden)]
    mlp = [(between, hidden), (between, hidden), (hidden, between)]
    return [(32000, hidden), *[*attention, *mlp, (hidden, 1), (hidden, 1)] * layers, (hidden, 1), (32000, hidden)]


MODELS: dict[str, Shapes] = {
    "7B": llama(4096, 4096, 11008, 32),
    "70B": llama(8192, 1024, 28672, 80),
    "10,000": [(4096, 1024)] * 10_000,
}


class Network:
    """Counts what is reduced, in place of ``torch.distributed.all_reduce``.

    Attributes:
        messages: the bytes of each reduction.
        others: what the next sum is to be, as if the other ranks had added their shares.
    """

    def __init__(self) -> None:
        self.messages: list[int] = []
        self.others: Tensor | None = None
        self.real = dist.all_reduce

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None) -> None:
        """Reduce by the fake group, and count."""
        self.messages.append(tensor.numel() * tensor.element_size())
        self.real(tensor, op, group=group)
        if self.others is not None and op == dist.ReduceOp.SUM:
            tensor.copy_(self.others)

    @contextmanager
    def complete(self, shapes: Shapes) -> Iterator[None]:
        """While it lasts, sums are the parameters' element counts, which makes the check of the layout pass."""
        self.others = torch.tensor([rows for rows, _ in shapes], dtype=torch.float64)
        yield
        self.others = None


class Case(NamedTuple):
    """One optimizer on one rank.

    Attributes:
        optimizer: the optimizer.
        new_gradients: gives every parameter a new gradient.
        step: takes a step, in as many calls as the backend makes.
    """

    optimizer: Any
    new_gradients: Callable[[], None]
    step: Callable[[], None]


def fsdp2(shapes: Shapes, rank: int, world: int, build: Build) -> Case:
    """Parameters and gradients as FSDP2 makes them: rows divided over one mesh dimension."""
    mesh = init_device_mesh("cpu", (world,))
    params = []
    for rows, _ in shapes:
        each = -(-rows // world)
        local = torch.randn(max(0, min(each, rows - rank * each)), 1)
        whole = DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=(rows, 1), stride=(1, 1))
        params.append(torch.nn.Parameter(whole))
    optimizer = build(params)

    def new_gradients() -> None:
        for p in params:
            grad = torch.randn(p.to_local().shape)
            p.grad = DTensor(grad, p._spec, requires_grad=False)

    return Case(optimizer, new_gradients, optimizer.step)


class Wrapper:
    """The tables of DeepSpeed's wrapper of ZeRO 3 that ``Zero3`` reads.

    Each parameter is cut into as many equal pieces as there are ranks, and the pieces of a sub-group lie one behind the
    other in a flat tensor.
    """

    def __init__(self, optimizer: Any, params: Sequence[Any], elements: Sequence[int], world: int) -> None:
        self.optimizer, self.dp_process_group = optimizer, None
        self.fp16_groups: list[list[Any]] = [[]]
        self.grad_position: dict[int, list[int]] = {}
        self.ids = {id(p): i for i, p in enumerate(params)}
        lengths, size = [0], 0
        for i, (p, n) in enumerate(zip(params, elements, strict=True)):
            if size >= SUB_GROUP:
                self.fp16_groups.append([])
                lengths.append(0)
                size = 0
            length = -(-p.ds_numel // world)
            self.grad_position[i] = [len(lengths) - 1, lengths[-1], length]
            self.fp16_groups[-1].append(p)
            lengths[-1] += length
            size += n
        self.sub_group_to_group_id = dict.fromkeys(range(len(lengths)), 0)
        self.fp32_partitioned_groups_flat = [torch.nn.Parameter(torch.randn(length)) for length in lengths]

    def get_param_id(self, p: Any) -> int:
        """Return the number of a parameter."""
        return self.ids[id(p)]

    def _reassign_or_swap_out_partitioned_parameters(self, sub_group: int) -> None:
        """Copy nothing: there is no model."""


class Stands(Backend):
    """The backend of the optimizers that a ``Wrapper`` holds."""

    name = "ZeRO 3 without DeepSpeed"

    def __init__(self) -> None:
        self.wrappers: dict[int, Wrapper] = {}

    def claims(self, optimizer: Any) -> bool:
        return id(optimizer) in self.wrappers

    def layout(self, optimizer: Any) -> Zero3:
        return Zero3(optimizer, self.wrappers[id(optimizer)])


STANDS = Stands()


def zero3(shapes: Shapes, rank: int, world: int, build: Build) -> Case:
    """Flat tensors as DeepSpeed's ZeRO 3 makes them, of which each call of ``step`` is handed one."""
    params: list[Any] = []
    for rows, _ in shapes:
        p: Any = torch.nn.Parameter(torch.empty(0))
        p.ds_shape, p.ds_numel, p.ds_process_group = torch.Size([rows, 1]), rows, None
        params.append(p)
    optimizer = build(params)
    wrapper = Wrapper(optimizer, params, [rows * columns for rows, columns in shapes], world)
    STANDS.wrappers[id(optimizer)] = wrapper
    flats = wrapper.fp32_partitioned_groups_flat

    def new_gradients() -> None:
        for flat in flats:
            flat.grad = torch.randn_like(flat)

    def step() -> None:
        for flat in flats:
            optimizer.param_groups[0]["params"] = [flat]
            optimizer.step()
        optimizer.param_groups[0]["params"] = []

    return Case(optimizer, new_gradients, step)


LAYOUTS = {"fsdp2": fsdp2, "zero3": zero3}


HEADINGS = (
    *("layout", "parameters", "ranks", "rank", "reductions", "bytes", "layout, ms", "first step, ms"),
    *("later step, ms", "AdamW, ms", "tables, KB"),
)


class Found(NamedTuple):
    """What was found out about a case.

    Attributes:
        collectives: the reductions of a later step.
        bytes: the bytes that they reduce.
        check_bytes: the bytes of those in the first step that check the layout.
        layout_ms: CPU time to find out and check the layout, in the first step.
        first_ms: CPU time of the first step without that.
        later_ms: CPU time of a later step, the median.
        torch_ms: the same of torch's fused AdamW; 0 if it was not asked for.
        memory: the bytes that Python holds for the layout.
    """

    collectives: int
    bytes: int
    check_bytes: int
    layout_ms: float
    first_ms: float
    later_ms: float
    torch_ms: float
    memory: int


def later(case: Case, steps: int) -> float:
    """Return the median of the CPU times of ``steps`` steps."""
    times = []
    for _ in range(steps):
        case.new_gradients()
        times.append(seconds(case.step))
    return statistics.median(times)


def seconds(function: Callable[[], Any]) -> float:
    """Return the CPU time that ``function`` takes on this thread."""
    start = thread_time()
    function()
    return thread_time() - start


@contextmanager
def connected(rank: int, world: int) -> Iterator[Network]:
    """While it lasts, this process is rank ``rank`` of ``world``, in a fake process group.

    ``STANDS`` stays registered: it claims nothing but what ``zero3`` builds.
    """
    register(STANDS)
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    network = Network()
    dist.all_reduce = network.all_reduce
    try:
        yield network
    finally:
        dist.all_reduce = network.real
        dist.destroy_process_group()


def measure(
    network: Network, name: str, shapes: Shapes, rank: int, world: int, type_: str, steps: int, adamw: bool
) -> Found:
    """Measure a case."""
    make, build = LAYOUTS[name], partial(gap_hf.GapAdamW, type=type_)
    case = make(shapes, rank, world, build)
    with network.complete(shapes):
        layout_s = seconds(case.optimizer.layout)
    check_bytes = sum(network.messages)
    case.new_gradients()
    first_s = seconds(case.step)
    network.messages.clear()
    later_s = later(case, steps)
    messages = network.messages[: len(network.messages) // steps]
    torch_s = later(make(shapes, rank, world, partial(torch.optim.AdamW, fused=True)), steps + 1) if adamw else 0.0
    other = make(shapes, rank, world, build)
    tracemalloc.start()
    with network.complete(shapes):
        layout: Sharded = other.optimizer.layout()
    getattr(layout, "counted_copies", None)  # which the first step makes
    memory, _ = tracemalloc.get_traced_memory()
    return Found(
        len(messages), sum(messages), check_bytes,
        layout_s * 1e3, first_s * 1e3, later_s * 1e3, torch_s * 1e3, memory,
    )  # fmt: skip


def main() -> None:
    """Measure the cases, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--ranks", nargs="+", type=int, default=[64, 512, 4096])
    parser.add_argument("--rank", type=int, help="this rank only; by default the first one and one in the middle")
    parser.add_argument("--type", default="switch")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--adamw", action="store_true", help="also measure torch's; minutes with 10,000 DTensors")
    parser.add_argument("--json", action="store_true", help="measure one case in this process, and print it")
    given = parser.parse_args()
    if given.json:
        ((layout,), (model,), (world,)) = given.layout, given.model, given.ranks
        torch.set_num_threads(1)
        with connected(given.rank, world) as network:
            found = measure(network, layout, MODELS[model], given.rank, world, given.type, given.steps, given.adamw)
        print(json.dumps(found._asdict()))
        return
    print("| " + " | ".join(HEADINGS) + " |\n" + "|---" * len(HEADINGS) + "|")
    for layout in given.layout:
        for model in given.model:
            for world in given.ranks:
                for rank in (0, world // 2) if given.rank is None else (given.rank,):
                    case = ["--layout", layout, "--model", model, "--ranks", world, "--rank", rank, "--json"]
                    case += ["--type", given.type, "--steps", given.steps]
                    case += ["--adamw"] * given.adamw
                    command = [sys.executable, "-m", "tests.scripts.many_ranks", *map(str, case)]
                    run = subprocess.run(command, capture_output=True, timeout=600)
                    if run.returncode:
                        sys.exit(run.stderr.decode())
                    found = Found(**json.loads(run.stdout.splitlines()[-1]))
                    print(
                        f"| {layout} | {len(MODELS[model]):,} ({model}) | {world:,} | {rank:,} | {found.collectives} "
                        f"| {found.bytes:,} | {found.layout_ms:.0f} | {found.first_ms:.0f} | {found.later_ms:.1f} "
                        f"| {found.torch_ms:.1f} "
                        f"| {found.memory / 1e3:,.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
