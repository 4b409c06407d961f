"""The common part of all families' references: the loop over parameters, values that are not finite, hysteresis."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import rules


class Reference(Optimizer, ABC):
    """The base of the references: what all families do with their scores."""

    @abstractmethod
    def decays(self, group: dict[str, Any]) -> list[float]:
        """Return the candidates' decay rates of the first moment."""

    @abstractmethod
    def score(self, group: dict[str, Any], p: Tensor) -> list[float]:
        """Update the buffers of ``p`` and return J_j for each candidate j."""

    @abstractmethod
    def apply(self, group: dict[str, Any], p: Tensor, weights: list[float]) -> None:
        """Step ``p`` with the weighted sum of the candidates' updates."""

    @abstractmethod
    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        """Scale the buffers of ``p``."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; afterwards the groups have ``last_choice`` in the same form as those of ``gap_hf.Adam``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scored = [
            (g, i, group, p, self.score(group, p))
            for g, group in enumerate(self.param_groups)
            for i, p in enumerate(group["params"])
            if p.grad is not None
        ]
        everything = [(group, p) for group in self.param_groups for p in group["params"] if p in self.state]
        type_ = self.defaults["type"]
        if type_.endswith("_parameter_wise"):
            for g, i, group, p, J in scored:
                memory = self.state[p]
                weights = self.decide(J, J, memory, group, (g << 20) + i)
                self.apply(group, p, weights)
                if self.hysteresis(J, weights, memory, group):
                    self.soft_reset(group, p)
        elif scored:
            group, memory = self.param_groups[0], self.memory
            J = [sum(column) for column in zip(*(J for *_, J in scored), strict=True)]
            if all(map(isfinite, J)):
                rho = group["J_ema"]
                old = memory.get("J_bar", [0.0] * len(J))
                memory["J_bar"] = [rho * o + (1 - rho) * new for o, new in zip(old, J, strict=True)]
            weights = self.decide(J, memory.get("J_bar", J), memory, group, 0)
            for _, _, own, p, _ in scored:
                self.apply(own, p, weights)
            if self.hysteresis(J, weights, memory, group):
                for own, p in everything:
                    self.soft_reset(own, p)
        for group in self.param_groups:
            self.note(group)
        return loss

    def decide(
        self, J: list[float], averaged: list[float], memory: dict[str, Any], group: dict[str, Any], number: int
    ) -> list[float]:
        """Return the weights that the rule gives the candidates; those of the step before if a score is not finite."""
        decays = self.decays(group)
        if all(map(isfinite, J)):
            memory["weights"] = rules.decide(averaged, decays, memory, group, number)
        return memory.setdefault("weights", rules.start(group, decays))

    def hysteresis(self, J: list[float], weights: list[float], memory: dict[str, Any], group: dict[str, Any]) -> bool:
        """Count steps in a row on which the applied mix scores below 0; at the threshold say so and begin again."""
        if group["type"].startswith("mix") and group["weights"] != "score":
            return False  # there are no scores to go by
        if all(map(isfinite, J)):
            applied = sum(weight * score for weight, score in zip(weights, J, strict=True))
            memory["negative"] = memory.get("negative", 0) + 1 if applied < 0 else 0
        if memory.get("negative", 0) >= group["hysteresis_threshold"]:
            memory["negative"] = 0
            return True
        return False

    def note(self, group: dict[str, Any]) -> None:
        """Set ``last_choice`` and ``last_weights``."""
        each, begun = self.defaults["type"].endswith("_parameter_wise"), rules.start(group, self.decays(group))
        memories = [self.state[p] for p in group["params"]] if each else [self.memory]
        found = [memory.get("weights", begun) for memory in memories]
        chosen = [rules.best(weights) for weights in found]
        group["last_choice"], group["last_weights"] = (chosen, found) if each else (chosen[0], found[0])

    @property
    def memory(self) -> dict[str, Any]:
        """What one choice for all remembers."""
        return self.param_groups[0].setdefault("memory", {})


def gradient(group: dict[str, Any], p: Tensor) -> Tensor:
    """The gradient g: with the other sign under ``maximize``, and with the L2 term if the decay is not decoupled."""
    assert p.grad is not None
    g = -p.grad if group["maximize"] else p.grad
    if group["weight_decay"] and not group.get("decoupled_weight_decay", False):
        return g.add(p, alpha=group["weight_decay"])
    return g
