r"""The reference of the Adam family. For each parameter \(p\) with gradient \(g\) and each candidate \(j\):

\[
\begin{aligned}
m_j &\leftarrow \beta_{1,j} m_j + (1-\beta_{1,j}) g, \qquad v_u \leftarrow \beta_{2,u} v_u + (1-\beta_{2,u}) g^2 \\
\hat v &= v_u / (1-\beta_{2,u}^t), \qquad r = 1 / (\sqrt{\hat v} + \epsilon), \qquad W = \mathrm{mean}(r) \\
J_j &= \sqrt{1-\beta_{1,j}^2} \; W^{-1/2} \sum g \, r \, m_j / (1-\beta_{1,j}) \\
p &\leftarrow p - \eta \sum_j w_j \, r \, m_j / (1-\beta_{1,j}^t)
\end{aligned}
\]

The weights \(w\) are the rule's (``rules.py``).
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from .common import Reference, gradient


class ReferenceAdam(Reference):
    """The reference of ``gap_hf.Adam`` for the types that choose; it keeps a second moment for each candidate."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Any = ((0.9, 0.999),),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        type: str = "switch",
        lr_modulation: bool | str = False,
        soft_reset: float = 0.9,
        hysteresis_threshold: int = 10,
        second_order_momentum_reset_mode: str = "none",
        J_ema: float = 0.0,
        weights: Any = None,
        seed: int = 0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {k: v for k, v in locals().items() if k not in ("self", "params", "__class__")})

    def decays(self, group: dict[str, Any]) -> list[float]:
        return [beta1 for beta1, _ in group["betas"]]

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

    def apply(self, group: dict[str, Any], p: Tensor, weights: list[float]) -> None:
        state, lr = self.state[p], group["lr"]
        if group["decoupled_weight_decay"]:
            p.mul_(1 - lr * group["weight_decay"])
        total = torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
        for j, weight in enumerate(weights):
            beta1, beta2 = group["betas"][j]
            v_hat = state[f"v_{j}"] / (1 - beta2 ** state["t"])
            m_hat = state[f"m_{j}"] / (1 - beta1 ** state["t"])
            if weight:
                total += weight * factor(group, beta1) * m_hat / (v_hat.sqrt() + group["eps"])
        p.sub_((lr * total).to(p.dtype))

    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        factor = group["soft_reset"]
        for j in range(len(group["betas"])):
            self.state[p][f"m_{j}"] *= factor
            mode = group["second_order_momentum_reset_mode"]
            self.state[p][f"v_{j}"] *= {"none": 1, "same": factor, "square": factor**2}[mode]


def factor(group: dict[str, Any], beta1: float) -> float:
    """The factor nu_j / nu_0 of ``lr_modulation``, with nu = sqrt((1 + beta1) / (1 - beta1)).

    It is 1 for equal gains, which Adam's candidates have already.
    """
    if group["lr_modulation"] not in (True, "power"):
        return 1.0
    first = group["betas"][0][0]
    return sqrt((1 + beta1) / (1 - beta1)) / sqrt((1 + first) / (1 - first))
