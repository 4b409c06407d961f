"""A batch of runs from start to end."""

from collections.abc import Callable, Sequence
from math import isfinite

import torch
from torch import Tensor

from .batched.layout import Layout, Setting
from .contenders import CONTENDERS
from .studies import STUDIES, task
from .table import Row

Watch = Callable[[int, Tensor], None]
"""Is shown every step's gradients ``(R, N)``."""


def generator(seed: int, what: int) -> torch.Generator:
    """A source of random numbers that depends on the seed and on what it is for alone."""
    return torch.Generator().manual_seed(1_000_003 * (seed + 1) + what)


def train(
    study: str, contender: str, seeds: Sequence[int], lrs: Sequence[float], watch: Watch | None = None
) -> list[Row]:
    """Train every seed with every learning rate, all at once; a run's start and batches depend on its seed alone."""
    about, model = STUDIES[study], task(study)
    layout, runs = Layout(model.shapes), [(seed, lr) for seed in seeds for lr in lrs]
    flat = [torch.cat([w.flatten() for w in model.start(generator(seed, 0))]) for seed in seeds]
    start = torch.stack(flat).repeat_interleave(len(lrs), dim=0)
    drawn = torch.stack([model.draw(generator(seed, 1), about.steps) for seed in seeds])
    setting = Setting(
        layout, start, torch.tensor([[lr] for _, lr in runs]), [seed for seed, _ in runs], about.steps, about.decay
    )
    optimizer = CONTENDERS[contender].build(about.family, setting)
    p, losses = start.clone().requires_grad_(), torch.zeros(about.steps, len(runs))
    for t in range(about.steps):
        loss = model.losses(layout.cut(p), model.batch(drawn[:, t]))
        (g,) = torch.autograd.grad(loss.sum(), p)
        losses[t] = loss.detach()
        with torch.no_grad():
            if watch is not None:
                watch(t, g)
            optimizer.step(p, g, 1 - t / about.steps if about.linear else 1.0)
    with torch.no_grad():
        before = model.evaluate(layout.cut(start[:: len(lrs)])).repeat_interleave(len(lrs))
        after = model.evaluate(layout.cut(optimizer.final(p)))
        late = losses[-max(1, about.steps // 10) :].mean(0)
    shares = optimizer.shares()
    rows = []
    for k, (seed, lr) in enumerate(runs):
        final, worst = float(after[k]), float(before[k])
        diverged = not isfinite(final) or final > worst
        picked, weights = ([], []) if shares is None else (part[k].tolist() for part in shares)
        rows.append(Row(study, contender, seed, lr, final, float(late[k]), worst, diverged, picked, weights))
    return rows
