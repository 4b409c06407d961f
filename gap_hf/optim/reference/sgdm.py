r"""The reference of the SGDM family.

\[
b_j \leftarrow \mu_j b_j + (1-d) g, \qquad J_j = \sqrt{1-\mu_j^2} \sum g \, b_j, \qquad p \leftarrow p - \eta \, b_j
\]
"""

from math import sqrt
from typing import Any

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
