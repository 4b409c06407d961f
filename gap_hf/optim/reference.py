r"""The reference implementation: GAP one tensor at a time, in the paper's notation. Slow; every test compares with it.

Adam / AdamW, for each parameter \(p\) with gradient \(g\) and each candidate \(j\):

\[
\begin{aligned}
m_j &\leftarrow \beta_{1,j} m_j + (1-\beta_{1,j}) g, \qquad v_u \leftarrow \beta_{2,u} v_u + (1-\beta_{2,u}) g^2 \\
\hat v &= v_u / (1-\beta_{2,u}^t), \qquad r = 1 / (\sqrt{\hat v} + \epsilon), \qquad W = \mathrm{mean}(r) \\
J_j &= \sqrt{1-\beta_{1,j}^2} \; W^{-1/2} \sum g \, r \, m_j / (1-\beta_{1,j}) \\
p &\leftarrow p - \eta \; r \, m_j / (1-\beta_{1,j}^t) \qquad j = \arg\max J
\end{aligned}
\]

SGD with momentum:

\[
b_j \leftarrow \mu_j b_j + (1-d) g, \qquad J_j = \sqrt{1-\mu_j^2} \sum g \, b_j, \qquad p \leftarrow p - \eta \, b_j
\]

The buffers are updated by the same roundings as ``torch.optim``'s, so that low-precision state is the same; the scores
are computed in float64 throughout. Nothing here is shared with ``gap_hf.optim.base``: agreement is evidence.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class _Reference(Optimizer, ABC):
    """What both families do with their scores."""

    @abstractmethod
    def score(self, group: dict[str, Any], p: Tensor) -> list[float]:
        """Update the buffers of ``p`` and return J_j for each candidate."""

    @abstractmethod
    def apply(self, group: dict[str, Any], p: Tensor, j: int) -> None:
        """Step ``p`` by candidate ``j``."""

    @abstractmethod
    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        """Scale the buffers of ``p``."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; afterwards ``param_group['last_choice']`` is as ``gap_hf.Adam``'s."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scored = [
            (group, p, self.score(group, p))
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        everything = [(group, p) for group in self.param_groups for p in group["params"] if p in self.state]
        if self.defaults["type"] == "switch_parameter_wise":
            for group, p, J in scored:
                memory = self.state[p]
                j = decide(J, J, memory)
                self.apply(group, p, j)
                if hysteresis(J, j, memory, group):
                    self.soft_reset(group, p)
        elif scored:
            group = self.param_groups[0]
            memory = self.memory
            J = [sum(column) for column in zip(*(J for _, _, J in scored), strict=True)]
            if all(map(isfinite, J)):
                rho = group["J_ema"]
                old = memory.get("J_bar", [0.0] * len(J))
                memory["J_bar"] = [rho * o + (1 - rho) * new for o, new in zip(old, J, strict=True)]
            j = decide(J, memory.get("J_bar", J), memory)
            for g, p, _ in scored:
                self.apply(g, p, j)
            if hysteresis(J, j, memory, group):
                for g, p in everything:
                    self.soft_reset(g, p)
        for group in self.param_groups:
            if self.defaults["type"] == "switch_parameter_wise":
                group["last_choice"] = [self.state[p].get("choice", 0) for p in group["params"]]
            else:
                group["last_choice"] = self.memory.get("choice", 0)
        return loss

    @property
    def memory(self) -> dict[str, Any]:
        """The global choice, count and averaged score of ``type='switch'``."""
        return self.param_groups[0].setdefault("memory", {})


def decide(J: list[float], averaged: list[float], memory: dict[str, Any]) -> int:
    """The lowest index within 1e-6 (relative) of the largest; the previous one if any J is NaN or infinite."""
    if all(map(isfinite, J)):
        largest = max(averaged)
        memory["choice"] = next(j for j, a in enumerate(averaged) if a >= largest - 1e-6 * abs(largest))
    return memory.setdefault("choice", 0)


def hysteresis(J: list[float], j: int, memory: dict[str, Any], group: dict[str, Any]) -> bool:
    """Count consecutive steps with J_j < 0; true when there are ``hysteresis_threshold``, and the count restarts."""
    if all(map(isfinite, J)):
        memory["negative"] = memory.get("negative", 0) + 1 if J[j] < 0 else 0
    if memory.get("negative", 0) >= group["hysteresis_threshold"]:
        memory["negative"] = 0
        return True
    return False


class ReferenceAdam(_Reference):
    """``gap_hf.Adam`` for ``type='switch'`` and ``'switch_parameter_wise'``; a second moment per candidate."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Any = ((0.9, 0.999),),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        type: str = "switch",
        lr_modulation: bool = False,
        soft_reset: float = 0.9,
        hysteresis_threshold: int = 10,
        second_order_momentum_reset_mode: str = "none",
        J_ema: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {k: v for k, v in locals().items() if k not in ("self", "params", "__class__")})

    def score(self, group: dict[str, Any], p: Tensor) -> list[float]:
        state = self.state[p]
        g = gradient(group, p)
        t = state["t"] = state.get("t", 0) + 1
        J = []
        for j, (beta1, beta2) in enumerate(group["betas"]):
            m = state.setdefault(f"m_{j}", torch.zeros_like(p))
            v = state.setdefault(f"v_{j}", torch.zeros_like(p))
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            r = 1 / ((v.double() / (1 - beta2**t)).sqrt() + group["eps"])
            W = r.mean()
            dot = (g.double() * r * m.double() / (1 - beta1)).sum()
            J.append(float(sqrt(1 - beta1**2) / W.sqrt() * dot) if p.numel() else 0.0)
        return J

    def apply(self, group: dict[str, Any], p: Tensor, j: int) -> None:
        state, lr = self.state[p], group["lr"]
        beta1, beta2 = group["betas"][j]
        if group["decoupled_weight_decay"]:
            p.mul_(1 - lr * group["weight_decay"])
        v_hat = state[f"v_{j}"] / (1 - beta2 ** state["t"])
        m_hat = state[f"m_{j}"] / (1 - beta1 ** state["t"])
        p.sub_(lr * nu_ratio(group, beta1) * m_hat / (v_hat.sqrt() + group["eps"]))

    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        factor = group["soft_reset"]
        for j in range(len(group["betas"])):
            self.state[p][f"m_{j}"] *= factor
            mode = group["second_order_momentum_reset_mode"]
            self.state[p][f"v_{j}"] *= {"none": 1, "same": factor, "square": factor**2}[mode]


class ReferenceSGDM(_Reference):
    """``gap_hf.SGDM`` for ``type='switch'`` and ``'switch_parameter_wise'``."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: Any = (0.0,),
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        type: str = "switch",
        lr_modulation: bool = False,
        soft_reset: float = 0.5,
        hysteresis_threshold: int = 5,
        J_ema: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {k: v for k, v in locals().items() if k not in ("self", "params", "__class__")})

    def score(self, group: dict[str, Any], p: Tensor) -> list[float]:
        state = self.state[p]
        g = gradient(group, p)
        J = []
        for j, mu in enumerate(group["momentum"]):
            if f"buf_{j}" not in state:
                state[f"buf_{j}"] = g.clone()
            else:
                state[f"buf_{j}"].mul_(mu).add_(g, alpha=1 - group["dampening"])
            J.append(float(sqrt(1 - mu**2) * (g.double() * state[f"buf_{j}"].double()).sum()))
        return J

    def apply(self, group: dict[str, Any], p: Tensor, j: int) -> None:
        mu = group["momentum"][j]
        update = self.state[p][f"buf_{j}"]
        if group["nesterov"]:
            update = gradient(group, p) + mu * update
        gain = sqrt(1 - mu**2) / sqrt(1 - group["momentum"][0] ** 2) if group["lr_modulation"] else 1.0
        p.sub_(group["lr"] * gain * update)

    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        for j in range(len(group["momentum"])):
            self.state[p][f"buf_{j}"] *= group["soft_reset"]


def gradient(group: dict[str, Any], p: Tensor) -> Tensor:
    """g: with the other sign under ``maximize``, and with the L2 term where the decay is not decoupled."""
    assert p.grad is not None
    g = -p.grad if group["maximize"] else p.grad
    if group["weight_decay"] and not group.get("decoupled_weight_decay", False):
        return g.add(p, alpha=group["weight_decay"])
    return g


def nu_ratio(group: dict[str, Any], beta1: float) -> float:
    """nu_j / nu_0 of ``lr_modulation``, nu = sqrt((1 + beta1) / (1 - beta1))."""
    if not group["lr_modulation"]:
        return 1.0
    first = group["betas"][0][0]
    return sqrt((1 + beta1) / (1 - beta1)) / sqrt((1 + first) / (1 - first))
