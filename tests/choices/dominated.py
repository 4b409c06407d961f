"""A run that hardly has a choice, recorded on every process.

python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.choices.dominated OUT
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

import gap_hf

from ..sharding.leaving import leave

STEPS = 230


def main(out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(20, 200)
    optimizer = gap_hf.GapAdamW(model.parameters(), betas=[(0.5, 0.999), (0.99, 0.999)], type="switch_parameter_wise")
    with gap_hf.Recorder(optimizer, model, out / str(rank), record=False) as recorder:
        for step in range(1, STEPS + 1):
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator)  # noise: the shorter memory is the nearer one
            optimizer.step()
            recorder.add(step)
            if step == 120:
                print(f"rank {rank}: {recorder.summary()['gap/dominance']:.3f}", flush=True)
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
