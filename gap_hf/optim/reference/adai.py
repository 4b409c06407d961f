r"""The reference of the Adai family, in float64. For each parameter \(p\) with gradient \(g\), each candidate \(j\):

\[
\begin{aligned}
v &\leftarrow \beta_2 v + (1-\beta_2) g^2, \qquad \hat v = v / (1-\beta_2^t), \qquad
\bar v = \mathrm{mean}\, \hat v \text{ over all elements} \\
\beta_j &= \mathrm{clip}(1 - \beta_{0,j} (\hat v / \bar v)^{1/(3-2d)}, 0, 1-\epsilon), \qquad
P_j \leftarrow \beta_j P_j, \qquad m_j \leftarrow \beta_j m_j + (1-\beta_j)^d g \\
J_j &= \mathrm{mean}\Bigl(\frac{(1-\beta_j)^{2d}}{1-\beta_j^2}\Bigr)^{-1/2} \sum g \, m_j, \qquad
p \leftarrow p - \eta \sum_j w_j \, \beta_{0,j}^{1-d} \, m_j / (1 - P_j)
\end{aligned}
\]

The weights \(w\) are the rule's (``rules.py``).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .common import Reference, gradient


class ReferenceAdai(Reference):
    """The reference of ``gap_hf.Adai``."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-1,
        betas: Any = ((0.1, 0.99),),
        eps: float = 1e-3,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        dampening: float = 1.0,
        type: str = "first",
        soft_reset: float = 0.9,
        hysteresis_threshold: int = 10,
        J_ema: float = 0.0,
        weights: Any = None,
        seed: int = 0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {k: v for k, v in locals().items() if k not in ("self", "params", "__class__")})

    def decays(self, group: dict[str, Any]) -> list[float]:
        return [1 - beta0 for beta0, _ in group["betas"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; the mean comes first."""
        total, count = 0.0, 0
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, g = self.state[p], gradient(group, p).double()
                beta2 = group["betas"][0][1]
                state["t"] = state.get("t", 0) + 1
                state["v"] = beta2 * state.get("v", torch.zeros_like(g)) + (1 - beta2) * g**2
                state["v_hat"] = state["v"] / (1 - beta2 ** state["t"])
                total, count = total + float(state["v_hat"].sum()), count + p.numel()
        self.mean = total / count if count else 0.0
        return super().step(closure)

    def score(self, group: dict[str, Any], p: Tensor) -> list[float]:
        state, g, d, J = self.state[p], gradient(group, p).double(), group["dampening"], []
        ratio = state["v_hat"] / self.mean if self.mean else torch.zeros_like(g)
        for j, (beta0, _) in enumerate(group["betas"]):
            beta = (1 - beta0 * ratio ** (1 / (3 - 2 * d))).clamp(0, 1 - group["eps"])
            state[f"P_{j}"] = beta * state.get(f"P_{j}", torch.ones_like(g))
            state[f"m_{j}"] = beta * state.get(f"m_{j}", torch.zeros_like(g)) + (1 - beta) ** d * g
            norm = ((1 - beta) ** (2 * d) / (1 - beta**2)).mean().sqrt()
            J.append(float((g * state[f"m_{j}"]).sum() / norm) if p.numel() else 0.0)
        return J

    def apply(self, group: dict[str, Any], p: Tensor, weights: list[float]) -> None:
        state, lr = self.state[p], group["lr"]
        if group["decoupled_weight_decay"]:
            p.mul_(1 - lr * group["weight_decay"])
        for j, ((beta0, _), weight) in enumerate(zip(group["betas"], weights, strict=True)):
            update = beta0 ** (1 - group["dampening"]) * state[f"m_{j}"] / (1 - state[f"P_{j}"])
            p.sub_(lr * weight * update)

    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        for j in range(len(group["betas"])):
            self.state[p][f"m_{j}"] *= group["soft_reset"]
