"""What saving and loading a portable state takes of each rank's memory, with a model of a billion parameters.

    python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.scripts.portable_memory FOLDER [LAYERS]

Parameters and state are in bfloat16 and cut by FSDP2. Anonymous memory is sampled all the time (Linux); the pages of
files, which the system takes back when it needs them, do not count.
"""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import gap_hf

from ..sharding.leaving import leave

WIDTH = 4096
MIB = 2**20


def anonymous() -> int:
    """The bytes of this process that are no file's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def peak(work: Callable[[], None]) -> tuple[int, int]:
    """Do something; give the memory before, and the most meanwhile."""
    before, most, over = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, anonymous())
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    work()
    over.set()
    thread.join()
    return before, most


def build(layers: int) -> tuple[nn.Module, gap_hf.GapAdamW]:
    """A stack of square matrices in FSDP2, and its optimizer."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16) for _ in range(layers)))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, gap_hf.GapAdamW(model.parameters(), betas=[(0.8, 0.999), (0.99, 0.999)], state_dtype="bfloat16")


def main(folder: Path, layers: int) -> None:
    dist.init_process_group("gloo")
    model, optimizer = build(layers)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    whole = sum(p.numel() for p in model.parameters())
    largest = max(p.numel() for p in model.parameters())
    for what, work in (
        ("save", lambda: gap_hf.save_portable(optimizer, model, folder, weights=True)),
        ("load", lambda: gap_hf.load_portable(optimizer, model, folder)),
    ):
        before, most = peak(work)
        found = [None] * dist.get_world_size()
        dist.all_gather_object(found, (before, most))
        if dist.get_rank() == 0:
            print(f"{what}: {whole / 1e9:.2f} B parameters, the largest {2 * largest / MIB:.0f} MiB")
            for rank, (first, top) in enumerate(found):
                print(f"  rank {rank}: {first / MIB:,.0f} MiB before, {(top - first) / MIB:,.0f} MiB more at most")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 60)
