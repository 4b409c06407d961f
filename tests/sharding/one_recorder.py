"""A Recorder on rank 0 alone, built before the first step, under the layouts that divide parameters over ranks.

Started on every rank:
python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.sharding.one_recorder {layouts,zero} OUT
"""

import importlib
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import gap_hf

from .bag import CASES, gradients, tensors
from .leaving import leave

STEPS = 4
LAYOUTS = {
    "layouts": ("ddp", "fsdp1", "fsdp2", "tensor-parallel"),
    "zero": ("zero0", "zero1", "zero2", "zero3"),
}


def main(backend: str, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    known = importlib.import_module(f".{backend}", __package__).LAYOUTS
    rows = gradients([t for block in tensors() for t in block], STEPS)
    for name in LAYOUTS[backend]:
        for case in ("adamw-wise", "adamw-switch"):
            wrapped = known[name][1](CASES[case], tensors())
            recorder = None
            if dist.get_rank() == 0:
                recorder = gap_hf.Recorder(wrapped.optimizer, wrapped.model, out / name / case, per_group=True)
            for step, grads in enumerate(rows, 1):
                wrapped.step(grads)
                if recorder is not None:
                    recorder.add(step)
            if recorder is not None:
                recorder.summary()
                recorder.close()
            dist.barrier()
    leave()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
