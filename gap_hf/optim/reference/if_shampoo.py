r"""The reference of inverse-free Shampoo. For each parameter \(p\) with gradient \(G\), each axis n of length
\(d_n\), and each momentum \(\mu_j\):

\[
\begin{aligned}
T &= \sqrt B\; G \times_i K_i^\top \text{ over all axes } i, \qquad
S_n = \mathrm{mat}_n(T)\, \mathrm{mat}_n(T)^\top / \textstyle\prod_{i \ne n} d_i \\
m_n &\leftarrow \alpha_2 m_n + \tfrac{1-\alpha_2}{2}
\bigl(\lambda \textstyle\prod_{i \ne n} \mathrm{tr}(K_i^\top K_i)/d_i\; K_n^\top K_n + S_n - I\bigr) \\
K_n &\leftarrow K_n (I - \beta_2 m_n / \max(1, \lVert m_n \rVert_F)) \\
D &= G \times_i K_i K_i^\top \text{ over all axes } i\; + \kappa p, \qquad b_j \leftarrow \mu_j b_j + D \\
J_j &= \sqrt{1-\mu_j^2}\; \Bigl(\prod_i \mathrm{tr}(K_i K_i^\top)/d_i\Bigr)^{-1/2} \sum G\, b_j, \qquad
p \leftarrow p - \eta \sum_j w_j f_j b_j
\end{aligned}
\]

The weights \(w\) are the rule's (``rules.py``), \(f_j\) is 1 or the factor of ``lr_modulation``. All factors are full
matrices here; of the axes longer than ``max_axis`` only the diagonal of \(S_n\) counts, and so they stay diagonal.
"""

from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

from .common import Reference
from .sgdm import factor


class ReferenceIFShampoo(Reference):
    """The reference of ``gap_hf.IFShampoo``."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: Any = (0.9,),
        beta2: float = 0.01,
        alpha2: float = 0.5,
        damping: float = 1e-3,
        weight_decay: float = 0,
        batch_size: float = 1.0,
        update_interval: int = 1,
        max_axis: int = 4096,
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
        state = self.state[p]
        g = -p.grad if group["maximize"] else p.grad
        shape = [d for d in p.shape if d != 1] or [1]
        G = g.double().reshape(shape)
        if "t" not in state:
            state["t"] = 0
            state["K"] = [torch.eye(d, dtype=torch.float64) for d in shape]
            state["m"] = [torch.zeros(d, d, dtype=torch.float64) for d in shape]
        if state["t"] % group["update_interval"] == 0 and p.numel():
            self.renew(group, state, G)
        state["t"] += 1
        D, W = G, 1.0
        for i, K in enumerate(state["K"]):
            D = product(K @ K.T, D, i)
            W *= float((K @ K.T).trace()) / max(len(K), 1)
        D = D.reshape(p.shape) + group["weight_decay"] * p.double()
        J = []
        for j, mu in enumerate(group["momentum"]):
            b = state.setdefault(f"b_{j}", torch.zeros_like(p))
            b.mul_(mu).add_(D.to(b.dtype))
            J.append(float(sqrt(1 - mu**2) / sqrt(W) * (g.double() * b.double()).sum()) if p.numel() else 0.0)
        return J

    @staticmethod
    def renew(group: dict[str, Any], state: dict[str, Any], G: Tensor) -> None:
        """Update the factors ``state["K"]`` and their momenta ``state["m"]``."""
        T, old = sqrt(group["batch_size"]) * G, list(state["K"])
        for i, K in enumerate(old):
            T = product(K.T, T, i)
        for n, K in enumerate(old):
            others = [i for i in range(G.ndim) if i != n]
            S = torch.tensordot(T, T, (others, others)) / prod(G.shape[i] for i in others)
            if len(K) > group["max_axis"]:
                S = S.diag().diag()
            c = prod(float((old[i].T @ old[i]).trace()) / G.shape[i] for i in others)
            now = group["damping"] * c * K.T @ K + S - torch.eye(len(K), dtype=torch.float64)
            m = group["alpha2"] * state["m"][n] + (1 - group["alpha2"]) / 2 * now
            state["m"][n] = m
            state["K"][n] = K - group["beta2"] * K @ m / max(1.0, float(torch.linalg.matrix_norm(m)))

    def apply(self, group: dict[str, Any], p: Tensor, weights: list[float]) -> None:
        total = torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
        for j, weight in enumerate(weights):
            if weight:
                total += weight * factor(group, group["momentum"][j]) * self.state[p][f"b_{j}"]
        p.sub_((group["lr"] * total).to(p.dtype))

    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        for j in range(len(group["momentum"])):
            self.state[p][f"b_{j}"] *= group["soft_reset"]


def product(matrix: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """Multiply ``tensor`` by ``matrix`` along ``axis``."""
    return torch.tensordot(matrix, tensor, ([1], [axis])).movedim(0, axis)
