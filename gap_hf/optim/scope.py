"""Scopes: what a choice is made for, the whole model or each parameter.

What a scope remembers from step to step lies in the parameter groups, where every backend's checkpoints carry it:
``last_choice``, ``negative_steps`` (in a row, for soft resets), for the moving average of the scores ``J_bar``, and
what the rule remembers.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .choice import average, choose
from .family import Family, Scored
from .groups import Group, held, keep
from .kernels.kernel import ChoosingKernel
from .rules import TYPES
from .rules.rule import Rule
from .uploads import constant
from .work import Work

CPU = torch.device("cpu")
Groups = Mapping[int, dict[str, Any]]


class Chosen(NamedTuple):
    """What is decided in a step, by group number.

    Attributes:
        choices: what is applied: candidates, 0-dim or ``(P,)`` int64, or a mix's weights, ``(K,)`` or ``(P, K)``
            float64. Empty if it has been applied already.
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
        remembers: the keys of its memory in each group, beside those of the rule.
        per_parameter: whether each parameter has its own choice.
    """

    remembers: ClassVar[tuple[str, ...]]
    per_parameter: ClassVar[bool]

    def keys(self, rule: type[Rule] | None) -> tuple[str, ...]:
        """All keys of the memory in each group."""
        return ("last_choice", *self.remembers, *(rule.remembers if rule is not None else ()))

    @abstractmethod
    def memory(self, P: int, K: int, first: Mapping[str, Any] | None, rule: Rule | None) -> dict[str, Any]:
        """The memory of a new group of P parameters and K candidates; ``first`` is the optimizer's first group."""

    @abstractmethod
    def choose(
        self, rules: Mapping[int, Rule], groups: Groups, J: Sequence[Tensor], with_grad: Sequence[Tensor]
    ) -> Chosen:
        """Choose, count steps against the gradient, and remember both in the groups.

        Args:
            rules: the rule by which scores become a choice, for each group.
            groups: the groups by number.
            J: their ``(P, K)`` float64 scores, 0 without a gradient.
            with_grad: ``(P,)`` bool, which parameters have one.
        """

    @abstractmethod
    def step_at_once(
        self, rule: Rule, groups: Groups, g: int, rows: Sequence[int], kernel: ChoosingKernel, work: Work, alone: bool
    ) -> Chosen | None:
        """Observe, choose and apply in one call of the kernel, if possible; otherwise do nothing and return None.

        Args:
            rule: the rule by which scores become a choice, one of the kernel's.
            groups: the groups by number.
            g: the number of the group that the work belongs to.
            rows: the parameters in that group that the fragments are, each of them whole.
            kernel: the kernel for the work.
            work: the fragments.
            alone: whether they are all that takes part in this step.
        """


def applied(new: Mapping[str, Tensor]) -> Tensor:
    """What is applied: the weights of a mix, else the candidates."""
    return new["last_weights"] if "last_weights" in new else new["last_choice"]


class OneForAll(Scope):
    """One choice for the whole model, by the scores of all parameters added up."""

    remembers: ClassVar = ("negative_steps", "J_bar")
    per_parameter: ClassVar = False

    def memory(self, P: int, K: int, first: Mapping[str, Any] | None, rule: Rule | None) -> dict[str, Any]:
        if first is not None:  # a group that joins late takes over what the others have
            return {key: copy.deepcopy(first[key]) for key in self.keys(type(rule) if rule is not None else None)}
        start = rule.start() if rule is not None else {"last_choice": 0}
        return {**start, "negative_steps": 0, "J_bar": [0.0] * K}

    def remember(self, groups: Groups, new: Mapping[str, Tensor]) -> None:
        """Keep the same memory in every group."""
        for group in groups.values():
            for key, value in new.items():
                keep(group, key, value)

    def choose(
        self, rules: Mapping[int, Rule], groups: Groups, J: Sequence[Tensor], with_grad: Sequence[Tensor]
    ) -> Chosen:
        total, any_grad = torch.cat(list(J)).sum(dim=0), torch.cat(list(with_grad)).any()
        (g, first), *_ = groups.items()
        kept = {key: held(first, key, total.device) for key in self.keys(type(rules[g]))}
        counts = total.isfinite().all() & any_grad
        averaged = average(total, counts, kept["J_bar"], first["J_ema"])
        number = constant((0,), torch.int64, total.device)[0]
        new = choose(rules[g], total, averaged, counts, kept, number, first["hysteresis_threshold"])
        self.remember(groups, {**new.kept, "J_bar": averaged})
        return Chosen(dict.fromkeys(groups, applied(new.kept)), dict.fromkeys(groups, new.reset), total)

    def step_at_once(
        self, rule: Rule, groups: Groups, g: int, rows: Sequence[int], kernel: ChoosingKernel, work: Work, alone: bool
    ) -> Chosen | None:
        if not alone:
            return None
        group = groups[g]
        kept = {key: held(group, key, CPU).clone() for key in self.keys(type(rule))}
        J, reset = kernel.step_for_all(rule, work, group["hysteresis_threshold"], group["J_ema"], kept)
        self.remember(groups, kept)
        return Chosen({}, dict.fromkeys(groups, reset), J)


class OneForEach(Scope):
    """A choice for each parameter, by its own scores; a parameter without a gradient keeps its choice."""

    remembers: ClassVar = ("negative_steps",)
    per_parameter: ClassVar = True

    def memory(self, P: int, K: int, first: Mapping[str, Any] | None, rule: Rule | None) -> dict[str, Any]:
        start = rule.start() if rule is not None else {"last_choice": 0}
        return {key: [copy.copy(value) for _ in range(P)] for key, value in {**start, "negative_steps": 0}.items()}

    def choose(
        self, rules: Mapping[int, Rule], groups: Groups, J: Sequence[Tensor], with_grad: Sequence[Tensor]
    ) -> Chosen:
        choices, resets = {}, {}
        for (g, group), scores, has_grad in zip(groups.items(), J, with_grad, strict=True):
            kept = {key: held(group, key, scores.device) for key in self.keys(type(rules[g]))}
            counts = scores.isfinite().all(dim=-1) & has_grad
            numbers = constant(tuple(range(g << 20, (g << 20) + len(scores))), torch.int64, scores.device)
            new = choose(rules[g], scores, scores, counts, kept, numbers, group["hysteresis_threshold"])
            for key, value in new.kept.items():
                keep(group, key, value)
            choices[g], resets[g] = applied(new.kept), new.reset
        return Chosen(choices, resets)

    def step_at_once(
        self, rule: Rule, groups: Groups, g: int, rows: Sequence[int], kernel: ChoosingKernel, work: Work, alone: bool
    ) -> Chosen | None:
        group, at = groups[g], constant(tuple(rows), torch.int64, CPU)
        kept = {key: held(group, key, CPU) for key in self.keys(type(rule))}
        mine = {key: value[at] for key, value in kept.items()}
        due, sums = kernel.step(rule, work, group["hysteresis_threshold"], mine)
        for key, value in kept.items():
            keep(group, key, value.index_copy(0, at, mine[key]))
        resets = torch.zeros(group["count"], dtype=torch.bool, device=CPU).index_copy_(0, at, due)
        return Chosen({}, {g: resets}, sums=sums)


SCOPES: dict[bool, Scope] = {False: OneForAll(), True: OneForEach()}
"""The scope by whether each parameter has its own choice."""


def scope_of(type_: str) -> Scope:
    """Return the scope of a value of the option ``type``."""
    return SCOPES[TYPES[type_].per_parameter]


def rule_of(family: Family, group: Mapping[str, Any]) -> Rule | None:
    """Return the rule that decides in ``group``; None if there is nothing to decide."""
    rule = TYPES[group["type"]].rule
    if rule is None:
        return None
    assert isinstance(family, Scored)  # options.validate has seen to that
    return rule(group, family.decays(group))


def started(family: Family, group: Mapping[str, Any], K: int, first: Mapping[str, Any] | None) -> Group:
    """Give ``group`` the memory of its scope; ``first`` is the optimizer's first group, None if ``group`` is that."""
    P = len(group["params"])
    memory = scope_of(group["type"]).memory(P, K, first, rule_of(family, group))
    return Group({**group, "count": P, "K": K, **memory})


def remember_constant(group: dict[str, Any], rule: Rule) -> None:
    """Let ``group`` remember the constant weights of its mix, which are applied instead of being decided.

    Weights that nobody has read were decided by scores, before the option was changed: they needn't be waited for.
    """
    assert rule.weights is not None
    each = scope_of(group["type"]).per_parameter
    if not (isinstance(group, Group) and group.is_unread("last_weights")):
        now = group["last_weights"][:1] if each else [group["last_weights"]]
        if not now or now[0] == list(rule.weights):
            return
    for key, value in rule.start().items():
        group[key] = [copy.copy(value) for _ in range(group["count"])] if each else value
