"""GAP for AdamW, written down in the most direct way: it shows what the kernels of ``gap_hf.optim`` save.

It takes one tensor at a time, keeps a first and a second moment for each candidate, and brings the scores of each
parameter to the host before it goes on to the next. It is only for the benchmark: it does not handle several processes,
ties or scores that are not finite, and its state can't be loaded.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LiteralGap(Optimizer):
    """AdamW with K candidates.

    Args:
        params: parameters or group dicts.
        lr: learning rate.
        betas: K pairs ``(beta1, beta2)``.
        eps: added to the denominator.
        weight_decay: decoupled.
        type: ``'switch'`` or ``'switch_parameter_wise'``.
        soft_reset: factor on the first moments after a series of steps against the gradient.
        hysteresis_threshold: the length of that series.

    After a step, ``param_group['last_choice']`` has the same form as that of ``gap_hf.GapAdamW``.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Any = ((0.9, 0.999),),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        type: str = "switch",
        soft_reset: float = 0.9,
        hysteresis_threshold: int = 10,
    ) -> None:
        super().__init__(params, {k: v for k, v in locals().items() if k not in ("self", "params", "__class__")})
        self.negative_steps = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step."""
        loss = None if closure is None else closure()
        if self.defaults["type"] == "switch":
            self._choose_for_all()
        else:
            self._choose_for_each()
        return loss

    def _choose_for_all(self) -> None:
        """Step with one candidate for the whole model."""
        params = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        scores = [self._observe(group, p) for group, p in params]
        J = [sum(column) for column in zip(*scores, strict=True)]
        choice = J.index(max(J))
        for group, p in params:
            self._apply(group, p, choice)
            group["last_choice"] = choice
        self.negative_steps = self.negative_steps + 1 if J[choice] < 0 else 0
        if self.negative_steps >= self.defaults["hysteresis_threshold"]:
            self.negative_steps = 0
            for group, p in params:
                self._soft_reset(group, p)

    def _choose_for_each(self) -> None:
        """Step with one candidate for each parameter."""
        for group in self.param_groups:
            group["last_choice"] = []
            for p in group["params"]:
                J = self._observe(group, p)
                choice = J.index(max(J))
                self._apply(group, p, choice)
                group["last_choice"].append(choice)
                state = self.state[p]
                state["negative_steps"] = state["negative_steps"] + 1 if J[choice] < 0 else 0
                if state["negative_steps"] >= group["hysteresis_threshold"]:
                    state["negative_steps"] = 0
                    self._soft_reset(group, p)

    def _observe(self, group: dict[str, Any], p: Tensor) -> list[float]:
        """Update the moments of ``p`` and score the candidates. This waits for the device."""
        g = p.grad
        assert g is not None
        state = self._state_of(p, len(group["betas"]))
        state["step"] += 1
        J = []
        for (beta1, beta2), m, v in zip(group["betas"], state["m"], state["v"], strict=True):
            m.mul_(beta1).add_(g, alpha=1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            r = 1 / ((v / (1 - beta2 ** state["step"])).sqrt() + group["eps"])
            J.append(sqrt(1 - beta1**2) / (1 - beta1) * (g * r * m).sum() / r.mean().sqrt())
        return torch.stack(J).tolist()

    def _apply(self, group: dict[str, Any], p: Tensor, choice: int) -> None:
        """Step ``p`` with candidate ``choice``."""
        state = self.state[p]
        beta1, beta2 = group["betas"][choice]
        m_hat = state["m"][choice] / (1 - beta1 ** state["step"])
        v_hat = state["v"][choice] / (1 - beta2 ** state["step"])
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_(group["lr"] * m_hat / (v_hat.sqrt() + group["eps"]))

    def _soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        """Scale the first moments of ``p``."""
        for m in self.state[p]["m"]:
            m.mul_(group["soft_reset"])

    def _state_of(self, p: Tensor, K: int) -> dict[str, Any]:
        """Return the state of ``p``; it is made if there is none."""
        state = self.state[p]
        if not state:
            state["step"] = state["negative_steps"] = 0
            state["m"] = [torch.zeros_like(p) for _ in range(K)]
            state["v"] = [torch.zeros_like(p) for _ in range(K)]
        return state
