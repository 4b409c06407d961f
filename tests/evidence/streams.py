"""Three runs of a small model, whose gradients the package's own optimizers are handed too."""

import torch
from evidence.batched.layout import Layout, Setting
from evidence.contenders import CONTENDERS
from evidence.data import Labelled
from evidence.models import Mlp

SEEDS = [0, 0, 1]
LRS = [0.003, 0.03, 0.01]
STEPS = 60


def small_model(size=4, dtype=torch.float32):
    rows = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    labels = (rows[:, 0] * rows[:, 1] > 0).long()
    rows = rows.to(dtype)
    return Mlp(Labelled(rows, labels, rows, labels), size, (6, 8, 2))


class Stream:
    """A batched optimizer on the small model, step by step; ``twins`` are fed the same gradients.

    Every run's twin is an optimizer on tensors of its own, so what its choices depend on is the gradients alone.
    """

    def __init__(self, contender, family, make, decay=0.01, size=4, lrs=LRS, dtype=torch.float32):
        self.model = small_model(size, dtype)
        self.layout = Layout(self.model.shapes)
        starts = [
            torch.cat([w.flatten() for w in self.model.start(torch.Generator().manual_seed(seed))]) for seed in SEEDS
        ]
        start = torch.stack(starts).to(dtype)
        drawn = [self.model.draw(torch.Generator().manual_seed(seed), STEPS) for seed in SEEDS]
        self.drawn = torch.stack(drawn)
        setting = Setting(self.layout, start, torch.tensor(lrs, dtype=dtype)[:, None], SEEDS, STEPS, decay)
        self.batched = (
            CONTENDERS[contender].build(family, setting) if isinstance(contender, str) else contender(setting)
        )
        self.p = start.clone().requires_grad_()
        self.copies = [
            [w.clone().requires_grad_() for w in weights] for weights in zip(*self.layout.cut(start), strict=True)
        ]
        self.twins = [make(copies, lr) for copies, lr in zip(self.copies, lrs, strict=True)]

    def steps(self):
        """Step everything; yield the number of the step."""
        for t in range(STEPS):
            losses = self.model.losses(self.layout.cut(self.p), self.model.batch(self.drawn[:, t]))
            (g,) = torch.autograd.grad(losses.sum(), self.p)
            for run, copies in enumerate(self.copies):
                for w, part in zip(copies, self.layout.cut(g), strict=True):
                    w.grad = part[run].clone()
                self.twins[run].step()
            with torch.no_grad():
                self.batched.step(self.p, g, 1.0)
            yield t

    def assert_same_weights(self):
        for run, copies in enumerate(self.copies):
            ours = [w[run].detach() for w in self.layout.cut(self.p)]
            for mine, theirs in zip(ours, copies, strict=True):
                torch.testing.assert_close(mine, theirs.detach(), rtol=2e-4, atol=2e-5)

    def decided(self, run):
        """The batched optimizer's last weights for a run, ``(Q, K)``."""
        return self.batched.decider.last[run]
