"""The two families with candidates, Adam's and SGD's, as docs/algorithm.md states them."""

from abc import abstractmethod
from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from .layout import Batched, Setting
from .rules import Decider


class Candidates(Batched):
    """An optimizer with K first-moment buffers.

    Attributes:
        buffers: of the candidates.
        decider: what decides their weights.
    """

    soft_reset: float

    def __init__(self, setting: Setting, betas: Sequence[float], decider: Decider, modulation: str = "off") -> None:
        super().__init__(setting)
        self.betas, self.decider = betas, decider
        self.buffers = [self.zeros() for _ in betas]
        self.gains = torch.tensor([self.gain(beta, modulation) for beta in betas], dtype=torch.float64)
        self.norms = torch.tensor([sqrt(1 - beta**2) for beta in betas], dtype=torch.float64)

    @abstractmethod
    def gain(self, beta: float, modulation: str) -> float:
        """A candidate's factor on its step: 1, or at equal power or equal DC gain."""

    def dots(self, g: Tensor) -> Tensor:
        """The products of g and each buffer, added up by parameter: ``(R, P, K)``."""
        return torch.stack([self.setting.layout.sums(g * buffer) for buffer in self.buffers], -1)

    def reset(self, due: Tensor | None) -> None:
        """Scale all candidates' buffers where that is due."""
        if due is not None and bool(due.any()):
            self.setting.layout.scale(torch.where(due, self.soft_reset, 1.0), self.buffers)

    def shares(self) -> tuple[Tensor, Tensor] | None:
        picked, weight = self.decider.picked, self.decider.weight
        if self.t == 0 or not isinstance(picked, Tensor) or not isinstance(weight, Tensor):
            return None
        return picked / self.t, weight / self.t


class AdamW(Candidates):
    """Adam with decoupled weight decay; with one candidate it is ``torch.optim.AdamW``."""

    soft_reset = 0.9

    def __init__(
        self,
        setting: Setting,
        betas: Sequence[float],
        decider: Decider,
        modulation: str = "off",
        corrected: bool = False,
        beta2: float = 0.999,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(setting, betas, decider, modulation)
        self.beta2, self.eps, self.corrected, self.v = beta2, eps, corrected, self.zeros()
        self.numbers = torch.tensor(setting.layout.sizes, dtype=torch.float64)

    def gain(self, beta: float, modulation: str) -> float:
        nu = [sqrt((1 + b) / (1 - b)) for b in (beta, self.betas[0])]
        return {"off": 1.0, "dc": 1.0, "power": nu[0] / nu[1]}[modulation]

    def step(self, p: Tensor, g: Tensor, schedule: float) -> None:
        self.t += 1
        for buffer, beta in zip(self.buffers, self.betas, strict=True):
            buffer.lerp_(g, 1 - beta)
        self.v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        r = (self.v / (1 - self.beta2**self.t)).sqrt_().add_(self.eps).reciprocal_()
        correction = 1 / (1 - torch.tensor(self.betas, dtype=torch.float64) ** self.t)
        weights, resets = self.decider(g, lambda: self.scores(g, r, correction))
        update = self.setting.layout.combine(weights * self.gains * correction, self.buffers).mul_(r)
        lr = self.setting.lr * schedule
        p.mul_(1 - lr * self.setting.decay).addcmul_(update, lr, value=-1)
        self.reset(resets)

    def scores(self, g: Tensor, r: Tensor, correction: Tensor) -> Tensor:
        """J of each parameter and candidate; ``corrected`` is the variant with m's bias correction in it."""
        W = self.setting.layout.sums(r) / self.numbers
        factors = self.norms / (1 - torch.tensor(self.betas, dtype=torch.float64))
        return self.dots(g * r) * (factors * correction if self.corrected else factors) / W.sqrt()[..., None]


class SGDM(Candidates):
    """SGD with momentum, no dampening; with one candidate it is ``torch.optim.SGD``."""

    soft_reset = 0.5
    reference = 0.9

    def gain(self, beta: float, modulation: str) -> float:
        power = sqrt((1 - beta**2) / (1 - self.betas[0] ** 2))
        return {"off": 1.0, "dc": (1 - beta) / (1 - self.reference), "power": power}[modulation]

    def step(self, p: Tensor, g: Tensor, schedule: float) -> None:
        self.t += 1
        if self.setting.decay:
            g = g.add(p, alpha=self.setting.decay)
        for buffer, beta in zip(self.buffers, self.betas, strict=True):
            buffer.mul_(beta).add_(g)
        weights, resets = self.decider(g, lambda: self.dots(g) * self.norms)
        update = self.setting.layout.combine(weights * self.gains, self.buffers)
        p.addcmul_(update, self.setting.lr * schedule, value=-1)
        self.reset(resets)
