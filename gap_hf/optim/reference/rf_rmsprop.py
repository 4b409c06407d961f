r"""The reference of root-free RMSProp. For each parameter \(p\) with gradient \(g\) and each momentum \(\mu_j\):

\[
\begin{aligned}
v &\leftarrow \alpha v + (1-\alpha) B g^2 \quad (v = 1 \text{ at first}), \qquad r = 1/(v + \epsilon), \qquad
d = r g + \lambda p \\
b_j &\leftarrow \mu_j b_j + d, \qquad
J_j = \sqrt{1-\mu_j^2} \; \mathrm{mean}(r)^{-1/2} \sum \frac{d}{r}\, b_j, \qquad
p \leftarrow p - \eta \sum_j w_j f_j b_j
\end{aligned}
\]

The weights \(w\) are the rule's (``rules.py``), \(f_j\) is 1 or the factor of ``lr_modulation``.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from .common import Reference
from .sgdm import factor


class ReferenceRFRMSprop(Reference):
    """The reference of ``gap_hf.RFRMSprop``."""

    def __init__(
        self,
        params: Any,
        lr: float = 5e-3,
        momentum: Any = (0.9,),
        alpha: float = 0.999,
        eps: float = 1e-4,
        weight_decay: float = 0,
        batch_size: float = 1.0,
        type: str = "switch",
        lr_modulation: bool | str = False,
        soft_reset: float = 0.5,
        hysteresis_threshold: int = 5,
        J_ema: float = 0.0,
        weights: Any = None,
        seed: int = 0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {k: v for k, v in locals().items() if k not in ("self", "params", "__class__")})

    def decays(self, group: dict[str, Any]) -> list[float]:
        return list(group["momentum"])

    def score(self, group: dict[str, Any], p: Tensor) -> list[float]:
        assert p.grad is not None
        state, alpha = self.state[p], group["alpha"]
        g = -p.grad if group["maximize"] else p.grad
        v = state.setdefault("v", torch.ones_like(p))
        v.mul_(alpha).addcmul_(g, g, value=(1 - alpha) * group["batch_size"])
        r = 1 / (v.double() + group["eps"])
        d = r * g.double() + group["weight_decay"] * p.double()
        J = []
        for j, mu in enumerate(group["momentum"]):
            b = state.setdefault(f"b_{j}", torch.zeros_like(p))
            b.mul_(mu).add_(d.to(b.dtype))
            dot = (d / r * b.double()).sum()
            J.append(float(sqrt(1 - mu**2) / r.mean().sqrt() * dot) if p.numel() else 0.0)
        return J

    def apply(self, group: dict[str, Any], p: Tensor, weights: list[float]) -> None:
        total = torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
        for j, weight in enumerate(weights):
            if weight:
                total += weight * factor(group, group["momentum"][j]) * self.state[p][f"b_{j}"]
        p.sub_((group["lr"] * total).to(p.dtype))

    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        for j in range(len(group["momentum"])):
            self.state[p][f"b_{j}"] *= group["soft_reset"]
