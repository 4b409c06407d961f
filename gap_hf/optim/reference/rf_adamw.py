r"""The reference of root-free AdamW. For each parameter \(p\) with gradient \(g\) and each candidate \(j\):

\[
\begin{aligned}
m_j &\leftarrow \beta_{1,j} m_j + (1-\beta_{1,j}) g, \qquad v_j \leftarrow \beta_{2,j} v_j + (1-\beta_{2,j}) B g^2
\quad (v_j = 1 \text{ at first}) \\
r_j &= 1 / (v_j + \epsilon), \qquad
J_j = \sqrt{1-\beta_{1,j}^2} \; \mathrm{mean}(r_j)^{-1/2} \sum g \, r_j \, m_j / (1-\beta_{1,j}) \\
p &\leftarrow (1 - \eta \lambda)\, p - \eta \sum_j w_j \, r_j \, m_j
\end{aligned}
\]

The weights \(w\) are the rule's (``rules.py``).
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from .adam import factor
from .common import Reference


class ReferenceRFAdamW(Reference):
    """The reference of ``gap_hf.RFAdamW``; it keeps a second moment for each candidate."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Any = ((0.9, 0.999),),
        eps: float = 1e-4,
        weight_decay: float = 1e-2,
        batch_size: float = 1.0,
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
        assert p.grad is not None
        state, B = self.state[p], group["batch_size"]
        g = -p.grad if group["maximize"] else p.grad
        J = []
        for j, (beta1, beta2) in enumerate(group["betas"]):
            m = state.setdefault(f"m_{j}", torch.zeros_like(p))
            v = state.setdefault(f"v_{j}", torch.ones_like(p))
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=(1 - beta2) * B)
            r = 1 / (v.double() + group["eps"])
            dot = (g.double() * r * m.double() / (1 - beta1)).sum()
            J.append(float(sqrt(1 - beta1**2) / r.mean().sqrt() * dot) if p.numel() else 0.0)
        return J

    def apply(self, group: dict[str, Any], p: Tensor, weights: list[float]) -> None:
        state, lr = self.state[p], group["lr"]
        p.mul_(1 - lr * group["weight_decay"])
        total = torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
        for j, weight in enumerate(weights):
            if weight:
                update = state[f"m_{j}"] / (state[f"v_{j}"] + group["eps"])
                total += weight * factor(group, group["betas"][j][0]) * update
        p.sub_((lr * total).to(p.dtype))

    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        factor = group["soft_reset"]
        for j in range(len(group["betas"])):
            self.state[p][f"m_{j}"] *= factor
            mode = group["second_order_momentum_reset_mode"]
            self.state[p][f"v_{j}"] *= {"none": 1, "same": factor, "square": factor**2}[mode]
