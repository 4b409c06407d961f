"""Two small runs, recorded: what ``written_by_0_2_0`` holds was written by this, with version 0.2.0 of the package.

python -m tests.choices.record_runs DIRECTORY
"""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import gap_hf

LOOP = {"foreach": False, "fused": False}
"""The kernel that is the same on every machine."""


class Model(nn.Module):
    """Three parameters, of which the last is used now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3))
        self.bias = nn.Parameter(torch.zeros(4))
        self.extra = nn.Parameter(torch.full((5,), 0.5))


def take_steps(model: Model, optimizer: torch.optim.Optimizer, first: int, last: int, seed: int) -> Iterator[int]:
    """The steps from ``first`` to ``last``: the gradients are noisy, and turn round every fifth step."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(first, last + 1):
        sign = -1.0 if step // 5 % 2 else 1.0
        for p in model.parameters():
            p.grad = sign * (1 + torch.randn(p.shape, generator=generator))
        if step in (2, 3):
            model.extra.grad = None
        if step == 11:
            model.bias.grad[0] = torch.nan
        optimizer.step()
        yield step


def adamw(model: Model) -> torch.optim.Optimizer:
    groups = [
        {"params": [model.weight, model.bias], "betas": [(0.8, 0.999), (0.95, 0.999), (0.99, 0.999)]},
        {"params": [model.extra], "betas": [(0.9, 0.99), (0.95, 0.999)]},
    ]
    return gap_hf.GapAdamW(groups, type="switch_parameter_wise", hysteresis_threshold=1, **LOOP)


def sgdm(model: Model) -> torch.optim.Optimizer:
    groups = [{"params": [model.weight, model.bias]}, {"params": [model.extra]}]
    return gap_hf.SGDM(groups, momentum=[0.9, 0.95, 0.99], type="switch", hysteresis_threshold=1, **LOOP)


def record(out: Path) -> None:
    """Write the choices files of two runs: ``adamw-wise``, resumed after its fifth step, and ``sgdm-switch``."""
    torch.set_num_threads(1)
    model = Model()
    optimizer = adamw(model)
    with gap_hf.Recorder(optimizer, model, out / "adamw-wise") as recorder:
        for step in take_steps(model, optimizer, 1, 8, seed=0):
            recorder.add(step)
            if step == 5:
                saved = copy.deepcopy(optimizer.state_dict())
    optimizer = adamw(model)
    optimizer.load_state_dict(saved)
    with gap_hf.Recorder(optimizer, model, out / "adamw-wise", start=5) as recorder:
        for step in take_steps(model, optimizer, 6, 12, seed=1):
            recorder.add(step)

    model = Model()
    optimizer = sgdm(model)
    with gap_hf.Recorder(optimizer, model, out / "sgdm-switch") as recorder:
        for step in take_steps(model, optimizer, 1, 12, seed=2):
            recorder.add(step)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
