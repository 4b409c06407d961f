r"""The reference of the SGDM family.

\[
b_j \leftarrow \mu_j b_j + (1-d) g, \qquad J_j = \sqrt{1-\mu_j^2} \sum g \, b_j, \qquad
p \leftarrow p - \eta \sum_j w_j f_j b_j
\]

The weights \(w\) are the rule's (``rules.py``), \(f_j\) is 1 or the factor of ``lr_modulation``.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from .common import Reference, gradient


class ReferenceSGDM(Reference):
    """The reference of ``gap_hf.SGDM`` for ``type='switch'`` and ``'switch_parameter_wise'``."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: Any = (0.0,),
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
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

    def apply(self, group: dict[str, Any], p: Tensor, weights: list[float]) -> None:
        g, total = gradient(group, p), torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
        for j, weight in enumerate(weights):
            mu, update = group["momentum"][j], self.state[p][f"buf_{j}"]
            if group["nesterov"]:
                update = g + mu * update
            if weight:
                total += weight * factor(group, mu) * update
        p.sub_((group["lr"] * total).to(p.dtype))

    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        for j in range(len(group["momentum"])):
            self.state[p][f"buf_{j}"] *= group["soft_reset"]


def factor(group: dict[str, Any], mu: float) -> float:
    """The candidate's factor on the learning rate.

    A mix brings all candidates to the gain of momentum 0.9 for a constant gradient, and so does ``lr_modulation='dc'``.
    ``'power'`` brings all to the power of the first one.
    """
    if group["type"].startswith("mix") or group["lr_modulation"] == "dc":
        return (1 - mu) / (1 - 0.9)
    return sqrt(1 - mu**2) / sqrt(1 - group["momentum"][0] ** 2) if group["lr_modulation"] else 1.0
