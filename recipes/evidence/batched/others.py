"""Other optimizers with more than one memory, or none to tune, from their papers' equations."""

from collections.abc import Sequence
from math import exp, log, sqrt

import torch
from torch import Tensor

from .layout import Batched, Setting


class AdEMAMix(Batched):
    """AdamW with a second, slow moving average of the gradient (arXiv 2409.03137).

    alpha and beta3 grow over the whole run, as there. The paper's beta3 of 0.9999 is for runs of 100,000s of steps.
    """

    def __init__(
        self,
        setting: Setting,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.999),
        alpha: float = 5.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(setting)
        self.betas, self.alpha, self.eps = betas, alpha, eps
        self.fast, self.slow, self.v = self.zeros(), self.zeros(), self.zeros()

    def step(self, p: Tensor, g: Tensor, schedule: float) -> None:
        self.t += 1
        beta1, beta2, beta3 = self.betas
        done = min(1.0, self.t / self.setting.steps)
        beta3 = min(exp(log(beta1) * log(beta3) / ((1 - done) * log(beta3) + done * log(beta1))), beta3)
        self.fast.lerp_(g, 1 - beta1)
        self.slow.lerp_(g, 1 - beta3)
        self.v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        update = self.fast / (1 - beta1**self.t) + self.alpha * done * self.slow
        update.div_((self.v / (1 - beta2**self.t)).sqrt_().add_(self.eps))
        lr = self.setting.lr * schedule
        p.mul_(1 - lr * self.setting.decay).addcmul_(update, lr, value=-1)


class AggMo(Batched):
    """SGD with several momentum buffers, each moving the weights by its mean share (arXiv 1804.00325)."""

    def __init__(self, setting: Setting, betas: Sequence[float] = (0.0, 0.9, 0.99)) -> None:
        super().__init__(setting)
        self.betas, self.buffers = betas, [self.zeros() for _ in betas]

    def step(self, p: Tensor, g: Tensor, schedule: float) -> None:
        lr = self.setting.lr * schedule / len(self.betas)
        for buffer, beta in zip(self.buffers, self.betas, strict=True):
            buffer.mul_(beta).add_(g)
            p.addcmul_(buffer, lr, value=-1)


class Nesterov(Batched):
    """SGD with Nesterov's momentum in the form of ``torch.optim.SGD``."""

    def __init__(self, setting: Setting, momentum: float = 0.9) -> None:
        super().__init__(setting)
        self.momentum, self.buffer = momentum, self.zeros()

    def step(self, p: Tensor, g: Tensor, schedule: float) -> None:
        self.buffer.mul_(self.momentum).add_(g)
        p.addcmul_(g.add(self.buffer, alpha=self.momentum), self.setting.lr * schedule, value=-1)


class Lion(Batched):
    """The sign of an interpolated momentum (arXiv 2302.06675); the decay is ten times that of the study."""

    def __init__(self, setting: Setting, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(setting)
        self.betas, self.m = betas, self.zeros()

    def step(self, p: Tensor, g: Tensor, schedule: float) -> None:
        update = self.m.lerp(g, 1 - self.betas[0]).sign_()
        lr = self.setting.lr * schedule
        p.mul_(1 - lr * 10 * self.setting.decay).addcmul_(update, lr, value=-1)
        self.m.lerp_(g, 1 - self.betas[1])


class ScheduleFree(Batched):
    """Schedule-free AdamW (arXiv 2405.15682): the gradient is taken at y, and x, an average, is evaluated.

    It stands in for a schedule, so that of the study is not applied; 5 % of the steps are warm-up.
    """

    def __init__(self, setting: Setting, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        super().__init__(setting)
        self.betas, self.eps = betas, eps
        self.x, self.z, self.v = setting.start.clone(), setting.start.clone(), self.zeros()
        self.warmup, self.total = max(1, setting.steps // 20), 0.0

    def step(self, p: Tensor, g: Tensor, schedule: float) -> None:
        self.t += 1
        beta1, beta2 = self.betas
        self.v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        relative = sqrt(1 - beta2**self.t) * min(1.0, self.t / self.warmup)
        lr = self.setting.lr * relative
        update = g / self.v.sqrt().add_(self.eps) + self.setting.decay * p
        self.z.addcmul_(update, lr, value=-1)
        self.total += relative**2
        self.x.lerp_(self.z, relative**2 / self.total)
        p.copy_(self.z.lerp(self.x, beta1))

    def final(self, p: Tensor) -> Tensor:
        return self.x


class Prodigy(Batched):
    """Adam with an estimated distance to the solution as its learning rate (arXiv 2306.06101); ours multiplies it."""

    def __init__(
        self, setting: Setting, betas: tuple[float, float] = (0.9, 0.999), d0: float = 1e-6, eps: float = 1e-8
    ) -> None:
        super().__init__(setting)
        self.betas, self.eps = betas, eps
        self.d = torch.full_like(setting.lr, d0)
        self.r = torch.zeros_like(setting.lr)
        self.s, self.m, self.v = self.zeros(), self.zeros(), self.zeros()

    def step(self, p: Tensor, g: Tensor, schedule: float) -> None:
        beta1, beta2 = self.betas
        slow, lr = sqrt(beta2), self.setting.lr * schedule
        self.m.mul_(beta1).addcmul_(g, self.d, value=1 - beta1)
        self.v.mul_(beta2).addcmul_(g * g, self.d**2, value=1 - beta2)
        moved = (g * (self.setting.start - p)).sum(1, keepdim=True)
        self.r.mul_(slow).add_(lr * self.d**2 * moved, alpha=1 - slow)
        self.s.mul_(slow).addcmul_(g, lr * self.d**2, value=1 - slow)
        d_new = torch.maximum(self.d, (self.r / self.s.abs().sum(1, keepdim=True)).nan_to_num(0.0))
        update = self.m / self.v.sqrt().add_(self.d * self.eps)
        p.mul_(1 - lr * self.d * self.setting.decay).addcmul_(update, lr * self.d, value=-1)
        self.d = d_new
