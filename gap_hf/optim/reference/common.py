"""The common part of all families' references: the loop over parameters, ties, hysteresis."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Reference(Optimizer, ABC):
    """The base of the references: what all families do with their scores."""

    @abstractmethod
    def score(self, group: dict[str, Any], p: Tensor) -> list[float]:
        """Update the buffers of ``p`` and return J_j for each candidate j."""

    @abstractmethod
    def apply(self, group: dict[str, Any], p: Tensor, j: int) -> None:
        """Step ``p`` with candidate ``j``."""

    @abstractmethod
    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        """Scale the buffers of ``p``."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; afterwards ``param_group['last_choice']`` has the same form as that of ``gap_hf.Adam``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scored = [
            (group, p, self.score(group, p))
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        everything = [(group, p) for group in self.param_groups for p in group["params"] if p in self.state]
        if self.defaults["type"] == "switch_parameter_wise":
            for group, p, J in scored:
                memory = self.state[p]
                j = decide(J, J, memory)
                self.apply(group, p, j)
                if hysteresis(J, j, memory, group):
                    self.soft_reset(group, p)
        elif scored:
            group = self.param_groups[0]
            memory = self.memory
            J = [sum(column) for column in zip(*(J for _, _, J in scored), strict=True)]
            if all(map(isfinite, J)):
                rho = group["J_ema"]
                old = memory.get("J_bar", [0.0] * len(J))
                memory["J_bar"] = [rho * o + (1 - rho) * new for o, new in zip(old, J, strict=True)]
            j = decide(J, memory.get("J_bar", J), memory)
            for g, p, _ in scored:
                self.apply(g, p, j)
            if hysteresis(J, j, memory, group):
                for g, p in everything:
                    self.soft_reset(g, p)
        for group in self.param_groups:
            if self.defaults["type"] == "switch_parameter_wise":
                group["last_choice"] = [self.state[p].get("choice", 0) for p in group["params"]]
            else:
                group["last_choice"] = self.memory.get("choice", 0)
        return loss

    @property
    def memory(self) -> dict[str, Any]:
        """The global choice, count and averaged score of ``type='switch'``."""
        return self.param_groups[0].setdefault("memory", {})


def decide(J: list[float], averaged: list[float], memory: dict[str, Any]) -> int:
    """Return the lowest index with J within 1e-6 (relative) of the largest; the previous one if a J is not finite."""
    if all(map(isfinite, J)):
        largest = max(averaged)
        memory["choice"] = next(j for j, a in enumerate(averaged) if a >= largest - 1e-6 * abs(largest))
    return memory.setdefault("choice", 0)


def hysteresis(J: list[float], j: int, memory: dict[str, Any], group: dict[str, Any]) -> bool:
    """Count consecutive steps with J_j < 0; at ``hysteresis_threshold`` return True and start the count again."""
    if all(map(isfinite, J)):
        memory["negative"] = memory.get("negative", 0) + 1 if J[j] < 0 else 0
    if memory.get("negative", 0) >= group["hysteresis_threshold"]:
        memory["negative"] = 0
        return True
    return False


def gradient(group: dict[str, Any], p: Tensor) -> Tensor:
    """The gradient g: with the other sign under ``maximize``, and with the L2 term if the decay is not decoupled."""
    assert p.grad is not None
    g = -p.grad if group["maximize"] else p.grad
    if group["weight_decay"] and not group.get("decoupled_weight_decay", False):
        return g.add(p, alpha=group["weight_decay"])
    return g
