r"""The reference of the Adai family, in float64. For each parameter \(p\) with gradient \(g\):

\[
\begin{aligned}
v &\leftarrow \beta_2 v + (1-\beta_2) g^2, \qquad \hat v = v / (1-\beta_2^t), \qquad
\bar v = \mathrm{mean}\, \hat v \text{ over all elements} \\
\beta_1 &= \mathrm{clip}(1 - \beta_0 (\hat v / \bar v)^{1/(3-2d)}, 0, 1-\epsilon), \qquad P \leftarrow \beta_1 P \\
m &\leftarrow \beta_1 m + (1-\beta_1)^d g, \qquad p \leftarrow p - \eta \, \beta_0^{1-d} \, m / (1 - P)
\end{aligned}
\]
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from .common import gradient


class ReferenceAdai(Optimizer):
    """The reference of ``gap_hf.Adai``."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-1,
        betas: tuple[float, float] = (0.1, 0.99),
        eps: float = 1e-3,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        dampening: float = 1.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {k: v for k, v in locals().items() if k not in ("self", "params", "__class__")})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        total, count = 0.0, 0
        for group, p in moving:
            state, g = self.state[p], gradient(group, p).double()
            if not state:
                state.update(t=0, m=torch.zeros_like(g), v=torch.zeros_like(g), P=torch.ones_like(g))
            state["t"] += 1
            beta2 = group["betas"][1]
            state["v"] = beta2 * state["v"] + (1 - beta2) * g**2
            state["v_hat"] = state["v"] / (1 - beta2 ** state["t"])
            total, count = total + float(state["v_hat"].sum()), count + p.numel()
        for group, p in moving:
            state, g = self.state[p], gradient(group, p).double()
            d, lr, beta0 = group["dampening"], group["lr"], group["betas"][0]
            ratio = state["v_hat"] / (total / count) if total else torch.zeros_like(g)
            beta1 = (1 - beta0 * ratio ** (1 / (3 - 2 * d))).clamp(0, 1 - group["eps"])
            state["P"] = beta1 * state["P"]
            state["m"] = beta1 * state["m"] + (1 - beta1) ** d * g
            if group["decoupled_weight_decay"]:
                p.mul_(1 - lr * group["weight_decay"])
            p.sub_(lr * beta0 ** (1 - d) * state["m"] / (1 - state["P"]))
        return loss
