r"""The reference of Adams. For each parameter \(p\) with gradient \(g\) and each candidate \(j\):

\[
\begin{aligned}
m_j &\leftarrow \beta_{1,j} m_j + (1-\beta_{1,j}) g, \qquad n \leftarrow \beta_2 n + (1-\beta_2) g^2, \qquad
s = \sqrt{n / (1-\beta_2^t)} \\
\theta_j &= \operatorname{atan2}(m_j, s), \qquad \text{update}_j = \theta_j / (1-\beta_{1,j}^t), \qquad
r_j = \theta_j / m_j \\
J_j &= \sqrt{1-\beta_{1,j}^2} \; \mathrm{mean}(r_j)^{-1/2} \sum g \, \theta_j / (1-\beta_{1,j})
\end{aligned}
\]

the mean being over the elements that have had a gradient. (``bias_correction="inside"``: \(\theta_j\) of
\(m_j/(1-\beta_{1,j}^t)\), and \(\text{update}_j = \theta_j\).) Before it moves, a matrix \(W\) decays by its largest
singular value, found by one step of power iteration from the vector \(u\) of the step before:

\[
v = \frac{W^\top u}{|W^\top u|}, \qquad u \leftarrow \frac{W v}{|W v|}, \qquad
W \leftarrow W - \eta \lambda \sqrt{\text{rows}} \; (u^\top W v) \, u v^\top
\]

and everything else by \(p \leftarrow (1 - \eta \lambda') p\). If W is 0, u stays.
"""

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from .adam import factor
from .common import Reference


class ReferenceAdams(Reference):
    """The reference of ``gap_hf.Adams``."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Any = ((0.9, 0.95),),
        weight_decay: float = 0.1,
        scalar_vector_weight_decay: float = 0.1,
        use_spectral_decay: bool = True,
        bias_correction: str = "outside",
        type: str = "first",
        lr_modulation: bool | str = False,
        soft_reset: float = 0.9,
        hysteresis_threshold: int = 10,
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
        state = self.state[p]
        g = (-p.grad if group["maximize"] else p.grad).float()
        t = state["t"] = state.get("t", 0) + 1
        beta2 = group["betas"][0][1]
        n = state.setdefault("n", torch.zeros_like(g)).mul_(beta2).addcmul_(g, g, value=1 - beta2)
        s = (n / (1 - beta2**t)).sqrt()
        live, J = s > 0, []
        for j, (beta1, _) in enumerate(group["betas"]):
            m = state.setdefault(f"m_{j}", torch.zeros_like(g)).lerp_(g, 1 - beta1)
            inside = group["bias_correction"] == "inside"
            moment = m / (1 - beta1**t) if inside else m
            theta = torch.atan2(moment, s)
            state[f"update_{j}"] = theta if inside else theta / (1 - beta1**t)
            # the slope of a moment of 0 is the limit, 1 / s
            r = torch.where(moment != 0, theta / moment, 1 / s)[live].double()
            dot = (g.double() * theta.double()).sum() / (1 - beta1)
            J.append(float(sqrt(1 - beta1**2) / r.mean().sqrt() * dot) if len(r) else 0.0)
        return J

    def apply(self, group: dict[str, Any], p: Tensor, weights: list[float]) -> None:
        state, lr = self.state[p], group["lr"]
        if group["use_spectral_decay"] and p.ndim >= 2 and 1 not in p.shape[-2:]:
            self.decay_matrices(group, p)
        else:
            p.mul_(1 - lr * group["scalar_vector_weight_decay"])
        for j, ((beta1, _), weight) in enumerate(zip(group["betas"], weights, strict=True)):
            if weight:
                p.sub_(lr * weight * factor(group, beta1) * state[f"update_{j}"])

    def decay_matrices(self, group: dict[str, Any], p: Tensor) -> None:
        """Subtract a part of each matrix's largest singular value; leading dimensions are a batch."""
        W = p.float()
        u = self.state[p].setdefault("u", torch.ones(p.shape[:-1]))
        v = unit(torch.einsum("...rc,...r->...c", W, u))
        Wv = torch.einsum("...rc,...c->...r", W, v)
        norm = Wv.norm(dim=-1, keepdim=True)
        u.copy_(torch.where(norm > 0, Wv / norm, u))
        size = group["lr"] * group["weight_decay"] * sqrt(p.shape[-2])
        p.sub_(size * norm.unsqueeze(-1) * u.unsqueeze(-1) * v.unsqueeze(-2))

    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        for j in range(len(group["betas"])):
            self.state[p][f"m_{j}"] *= group["soft_reset"]


def unit(x: Tensor) -> Tensor:
    """Scale the vectors to length 1; those of 0 stay."""
    norm = x.norm(dim=-1, keepdim=True)
    return torch.where(norm > 0, x / norm, x)
