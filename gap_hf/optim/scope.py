"""Scopes: what a choice is made for, the whole model or each parameter.

What a scope remembers from step to step lies in the parameter groups, where every backend's checkpoints carry it:
``last_choice``, ``negative_steps`` (in a row, for soft resets) and, for the moving average of the scores, ``J_bar``.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .choice import average, choose
from .groups import Group, held, keep
from .kernels.kernel import ChoosingKernel
from .rule import Best, Rule
from .uploads import constant
from .work import Work

CPU = torch.device("cpu")
Groups = Mapping[int, dict[str, Any]]


class Chosen(NamedTuple):
    """What is decided in a step, by group number.

    Attributes:
        choices: the candidates, 0-dim or ``(P,)`` int64; empty if they have been applied already.
        resets: where a soft reset is due, 0-dim or ``(P,)`` bool.
        scores: ``(K,)`` float64, the raw scores of one choice for all.
        sums: the sums that the choices were made by, after a step in one call.
    """

    choices: dict[int, Tensor]
    resets: dict[int, Tensor]
    scores: Tensor | None = None
    sums: Tensor | None = None


class Scope(ABC):
    """A scope: what a choice is made for.

    Attributes:
        remembers: the keys of its memory in each group.
        per_parameter: whether each parameter has its own choice.
    """

    remembers: ClassVar[tuple[str, ...]]
    per_parameter: ClassVar[bool]

    @abstractmethod
    def memory(self, P: int, K: int, first: Mapping[str, Any] | None) -> dict[str, Any]:
        """The memory of a new group of P parameters and K candidates; ``first`` is the optimizer's first group."""

    @abstractmethod
    def choose(self, rule: Rule, groups: Groups, J: Sequence[Tensor], with_grad: Sequence[Tensor]) -> Chosen:
        """Choose, count steps against the gradient, and remember both in the groups.

        Args:
            rule: the rule by which scores become a choice.
            groups: the groups by number.
            J: their ``(P, K)`` float64 scores, 0 without a gradient.
            with_grad: ``(P,)`` bool, which parameters have one.
        """

    @abstractmethod
    def step_at_once(
        self, groups: Groups, g: int, rows: Sequence[int], kernel: ChoosingKernel, work: Work, alone: bool
    ) -> Chosen | None:
        """Observe, choose and apply in one call of the kernel, if possible; otherwise do nothing and return None.

        Args:
            groups: the groups by number.
            g: the number of the group that the work belongs to.
            rows: the parameters in that group that the fragments are, each of them whole.
            kernel: the kernel for the work.
            work: the fragments.
            alone: whether they are all that takes part in this step.
        """


class OneForAll(Scope):
    """One choice for the whole model, by the scores of all parameters added up."""

    remembers: ClassVar = ("last_choice", "negative_steps", "J_bar")
    per_parameter: ClassVar = False

    def memory(self, P: int, K: int, first: Mapping[str, Any] | None) -> dict[str, Any]:
        if first is not None:  # a group that joins late takes over what the others have
            return {key: copy.copy(first[key]) for key in self.remembers}
        return {"last_choice": 0, "negative_steps": 0, "J_bar": [0.0] * K}

    def remember(self, groups: Groups, values: Sequence[Tensor]) -> None:
        """Keep the same memory in every group."""
        for group in groups.values():
            for key, value in zip(self.remembers, values, strict=True):
                keep(group, key, value)

    def choose(self, rule: Rule, groups: Groups, J: Sequence[Tensor], with_grad: Sequence[Tensor]) -> Chosen:
        total, any_grad = torch.cat(list(J)).sum(dim=0), torch.cat(list(with_grad)).any()
        first = next(iter(groups.values()))
        candidate, negative_steps, J_bar = (held(first, key, total.device) for key in self.remembers)
        counts = total.isfinite().all() & any_grad
        averaged = average(total, counts, J_bar, first["J_ema"])
        threshold = first["hysteresis_threshold"]
        new = choose(total, averaged, counts, candidate, negative_steps, threshold, rule.pick)
        self.remember(groups, (new.candidate, new.negative_steps, averaged))
        return Chosen(dict.fromkeys(groups, new.candidate), dict.fromkeys(groups, new.reset), total)

    def step_at_once(
        self, groups: Groups, g: int, rows: Sequence[int], kernel: ChoosingKernel, work: Work, alone: bool
    ) -> Chosen | None:
        if not alone:
            return None
        group = groups[g]
        candidate, negative_steps, J_bar = (held(group, key, CPU).clone() for key in self.remembers)
        J, reset = kernel.step_for_all(
            work, group["hysteresis_threshold"], group["J_ema"], candidate, negative_steps, J_bar
        )
        self.remember(groups, (candidate, negative_steps, J_bar))
        return Chosen({}, dict.fromkeys(groups, reset), J)


class OneForEach(Scope):
    """A choice for each parameter, by its own scores; a parameter without a gradient keeps its choice."""

    remembers: ClassVar = ("last_choice", "negative_steps")
    per_parameter: ClassVar = True

    def memory(self, P: int, K: int, first: Mapping[str, Any] | None) -> dict[str, Any]:
        return {key: [0] * P for key in self.remembers}

    def choose(self, rule: Rule, groups: Groups, J: Sequence[Tensor], with_grad: Sequence[Tensor]) -> Chosen:
        choices, resets = {}, {}
        for (g, group), scores, has_grad in zip(groups.items(), J, with_grad, strict=True):
            candidate, negative_steps = (held(group, key, scores.device) for key in self.remembers)
            counts = scores.isfinite().all(dim=-1) & has_grad
            threshold = group["hysteresis_threshold"]
            new = choose(scores, scores, counts, candidate, negative_steps, threshold, rule.pick)
            keep(group, "last_choice", new.candidate)
            keep(group, "negative_steps", new.negative_steps)
            choices[g], resets[g] = new.candidate, new.reset
        return Chosen(choices, resets)

    def step_at_once(
        self, groups: Groups, g: int, rows: Sequence[int], kernel: ChoosingKernel, work: Work, alone: bool
    ) -> Chosen | None:
        group, at = groups[g], constant(tuple(rows), torch.int64, CPU)
        choice, negative_steps = (held(group, key, CPU) for key in self.remembers)
        mine, counts = choice[at], negative_steps[at]
        due, sums = kernel.step(work, group["hysteresis_threshold"], mine, counts)
        keep(group, "last_choice", choice.index_copy(0, at, mine))
        keep(group, "negative_steps", negative_steps.index_copy(0, at, counts))
        resets = torch.zeros(len(choice), dtype=torch.bool, device=CPU).index_copy_(0, at, due)
        return Chosen({}, {g: resets}, sums=sums)


def started(group: Mapping[str, Any], K: int, first: Mapping[str, Any] | None) -> Group:
    """Give ``group`` the memory of its scope; ``first`` is the optimizer's first group, None if ``group`` is that."""
    P = len(group["params"])
    return Group({**group, "count": P, "K": K, **TYPES[group["type"]].scope.memory(P, K, first)})


class Type(NamedTuple):
    """The meaning of a value of the option ``type``.

    Attributes:
        scope: what a choice is made for.
        rule: the rule that it is made by; None where there is one candidate and no choice.
    """

    scope: Scope
    rule: Rule | None


TYPES = {
    "default": Type(OneForAll(), None),
    "switch": Type(OneForAll(), Best()),
    "switch_parameter_wise": Type(OneForEach(), Best()),
}
