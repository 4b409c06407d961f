"""What every GAP optimizer shares: groups, state, and the five words of a step.

*observe* the gradient, *score* the candidates, *reduce* the partial sums, *choose*, *apply*. A family
(``gap_hf.optim.adam``, ``gap_hf.optim.sgd``) says what its buffers, its partial sums and its update are; how
parameters are laid out over processes is ``gap_hf.sharding``'s business.

Per-parameter state holds only parameter-shaped and 0-dim tensors, and everything else is plain numbers and flat lists
in ``param_groups``: the one layout that every backend's checkpoints carry unharmed.
"""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..sharding import single
from ..sharding.layout import Fragment
from .choice import best_candidate, count_negative

logger = logging.getLogger(__name__)

Where = list[tuple[int, list[int]]]
"""(group, its parameters that have a gradient), in order."""

TYPES = ("default", "switch", "switch_parameter_wise")


class GapOptimizer(Optimizer, ABC):
    """Base of the families. Not used by itself.

    After every ``step``, ``param_group['last_choice']`` is the index of the applied candidate: an ``int`` for
    ``type='switch'`` (the same in all groups) and ``'default'``, a list of ``int`` in the order of the group's
    parameters for ``'switch_parameter_wise'``.
    """

    candidate_name: ClassVar[str] = "candidate"
    """What a candidate is called in logs: ``beta1`` or ``momentum``."""

    shared_by_switch: ClassVar[tuple[str, ...]] = ("J_ema", "hysteresis_threshold")
    """Options that must agree in all groups under ``type='switch'``, because there is one choice for all."""

    steps_taken = 0
    """Calls of ``step`` in this process; not saved. Tells an observer whether a step happened since it looked."""

    last_scores: Tensor | None = None
    """Raw J of the last ``'switch'`` step, ``(K,)`` float64; ``None`` for the other types."""

    last_resets: tuple[tuple[int, int], ...] = ()
    """(group, index) of the parameters whose buffers the last step reset."""

    callback: Any = None
    """The callback that watches this optimizer, if any."""

    # ------------------------------------------------------------------ what a family adds
    @abstractmethod
    def candidates(self, group: dict[str, Any]) -> list[Any]:
        """The K candidates of ``group``, validated. Raises ValueError."""

    @abstractmethod
    def candidate_labels(self, group: dict[str, Any]) -> list[str]:
        """The K candidates as short text for logs, plots and files."""

    @abstractmethod
    def _validate(self, group: dict[str, Any]) -> None:
        """Check the family's own options. Raises ValueError."""

    @abstractmethod
    def _torch_step(self, group: dict[str, Any], fragments: list[Fragment]) -> None:
        """The whole step of ``type='default'``, by torch's own function."""

    @abstractmethod
    def _observe_and_score(self, group: dict[str, Any], fragment: Fragment, grad: Tensor) -> list[Tensor]:
        """Update the K buffers by ``grad``; return this fragment's S partial sums, 0-dim float64."""

    @abstractmethod
    def _scores(self, group: dict[str, Any], sums: Tensor, numel: Tensor) -> Tensor:
        """``(P, K)`` scores J from the ``(P, S)`` sums over whole parameters of ``numel`` ``(P,)`` elements."""

    @abstractmethod
    def _apply(self, group: dict[str, Any], fragment: Fragment, grad: Tensor, choice: int) -> None:
        """Decay, then step by candidate ``choice``."""

    @abstractmethod
    def _soft_reset(self, group: dict[str, Any], state: dict[str, Any]) -> None:
        """Scale the buffers in ``state``."""

    # ------------------------------------------------------------------ groups
    @property
    def type(self) -> str:
        """``'default'``, ``'switch'`` or ``'switch_parameter_wise'``: the same in all groups."""
        return self.param_groups[0]["type"]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as ``torch.optim.Optimizer.add_param_group``.

        Raises:
            ValueError: an option is out of range or disagrees with the other groups, or a parameter is complex.
        """
        merged = {**self.defaults, **param_group}
        self._validate_shared(merged)
        self._validate(merged)
        first = self.param_groups[0] if self.param_groups else None
        if first is not None:
            self._validate_together([first, merged])
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:
            if p.is_complex():
                self.param_groups.pop()
                raise ValueError(
                    f"{type(self).__name__} takes real parameters; one of shape {tuple(p.shape)} is complex"
                )
        group["numel"] = [p.numel() for p in group["params"]]
        if self.type == "switch_parameter_wise":
            group["last_choice"] = [0] * len(group["params"])
            group["negative_steps"] = [0] * len(group["params"])
        elif first is not None:  # one choice for all: a group that joins late takes over what the others have
            for key in ("last_choice", "negative_steps", "J_bar"):
                group[key] = copy.copy(first[key])
        else:
            group["last_choice"] = 0
            group["negative_steps"] = 0
            group["J_bar"] = [0.0] * len(self.candidates(group))

    def _validate_shared(self, group: dict[str, Any]) -> None:
        """Check the options that all families have."""
        if group["type"] not in TYPES:
            raise ValueError(f"type={group['type']!r} is unknown; expected one of {', '.join(map(repr, TYPES))}")
        check_option("lr", group["lr"], float(group["lr"]) >= 0, ">= 0")
        check_option("weight_decay", group["weight_decay"], group["weight_decay"] >= 0, ">= 0")
        check_option("J_ema", group["J_ema"], 0 <= group["J_ema"] < 1, "in [0, 1)")
        check_option("soft_reset", group["soft_reset"], 0 <= group["soft_reset"] <= 1, "in [0, 1]")
        threshold = group["hysteresis_threshold"]
        whole = isinstance(threshold, int) and not isinstance(threshold, bool)
        check_option("hysteresis_threshold", threshold, whole and threshold >= 1, "a whole number of steps >= 1")
        if group["type"] == "switch_parameter_wise" and group["J_ema"]:
            raise ValueError(
                f"J_ema={group['J_ema']} averages the global score, which type='switch_parameter_wise' does not have; "
                "set J_ema=0 or type='switch'"
            )
        candidates = self.candidates(group)
        if group["type"] == "default" and len(candidates) > 1:
            raise ValueError(
                f"type='default' takes one candidate, got {len(candidates)}: give a single one, or set type='switch' "
                "or type='switch_parameter_wise' to choose among them"
            )

    def _validate_together(self, groups: list[dict[str, Any]]) -> None:
        """Check what must agree between groups."""
        first = groups[0]
        for group in groups[1:]:
            if group["type"] != first["type"]:
                raise ValueError(f"all groups share one type; got {first['type']!r} and {group['type']!r}")
            if first["type"] != "switch":
                continue
            counts = len(self.candidates(first)), len(self.candidates(group))
            if counts[0] != counts[1]:
                raise ValueError(
                    f"type='switch' makes one choice for all groups, but they list {counts[0]} and "
                    f"{counts[1]} candidates"
                )
            for key in self.shared_by_switch:
                if group[key] != first[key]:
                    raise ValueError(
                        f"type='switch' makes one choice for all groups, so {key} must agree in them; "
                        f"got {first[key]} and {group[key]}"
                    )

    # ------------------------------------------------------------------ the step
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            What ``closure`` returned, else ``None``.

        Raises:
            RuntimeError: a gradient is sparse, or the parameters are sharded.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        live = single.fragments(self.param_groups)
        self.last_resets = ()
        if self.type == "default":
            for group, fragments in zip(self.param_groups, live, strict=True):
                self._torch_step(group, fragments)
        elif any(live):
            self._gap_step(live)
        self.steps_taken += 1
        return loss

    def _gap_step(self, live: list[list[Fragment]]) -> None:
        """Observe, score, reduce, choose, apply. ``live`` holds the fragments with a gradient, group by group."""
        per_group = [(g, self.param_groups[g], fragments) for g, fragments in enumerate(live) if fragments]
        device = per_group[0][2][0].value.device
        grads = [[self._filtered_grad(group, f) for f in fragments] for _, group, fragments in per_group]
        tables = []
        for (_, group, fragments), gs in zip(per_group, grads, strict=True):
            rows = [torch.stack(self._observe_and_score(group, f, g)) for f, g in zip(fragments, gs, strict=True)]
            tables.append(torch.stack([row.to(device) for row in rows]))
        scores = []
        for (_, group, fragments), sums in zip(per_group, single.reduce(tables), strict=True):
            numel = torch.tensor([f.numel for f in fragments], dtype=torch.float64, device=device)
            scores.append(self._scores(group, sums, numel))
        where = [(g, [f.index for f in fragments]) for g, _, fragments in per_group]
        if self.type == "switch":
            choices, resets = self._choose_for_all(where, torch.cat(scores).sum(dim=0))
        else:
            choices, resets = self._choose_per_parameter(where, scores)
        for (_, group, fragments), gs, chosen in zip(per_group, grads, choices, strict=True):
            for f, g, choice in zip(fragments, gs, chosen, strict=True):
                self._apply(group, f, g, choice)
        for i, j in resets:
            self._soft_reset(self.param_groups[i], self.state[self.param_groups[i]["params"][j]])
        self.last_resets = tuple(resets)

    def _filtered_grad(self, group: dict[str, Any], fragment: Fragment) -> Tensor:
        """The gradient that enters the filter: with the L2 term where the decay is not decoupled."""
        if group["weight_decay"] and not group.get("decoupled_weight_decay", False):
            return fragment.grad.add(fragment.value, alpha=group["weight_decay"])
        return fragment.grad

    def _choose_for_all(self, where: Where, J: Tensor) -> tuple[list[list[int]], list[tuple[int, int]]]:
        """One index for every parameter, from ``J`` ``(K,)`` summed over all of them."""
        first = self.param_groups[0]
        previous = torch.tensor(first["last_choice"], device=J.device)
        J_bar = torch.tensor(first["J_bar"], dtype=torch.float64, device=J.device)
        # A score that is not finite would stay in the average for ever: such a step leaves average and choice as is.
        finite = J.isfinite().all()
        J_bar = torch.where(finite, first["J_ema"] * J_bar + (1 - first["J_ema"]) * J, J_bar)
        choice = torch.where(finite, best_candidate(J_bar, previous), previous)
        count = torch.tensor(first["negative_steps"], device=J.device)
        count, reset = count_negative(J, choice, count, first["hysteresis_threshold"])
        index, negative_steps = int(choice), int(count)
        for group in self.param_groups:
            group.update(last_choice=index, negative_steps=negative_steps, J_bar=J_bar.tolist())
        self.last_scores = J
        resets = self._parameters_with_state() if bool(reset) else []
        return [[index] * len(indices) for _, indices in where], resets

    def _choose_per_parameter(
        self, where: Where, scores: list[Tensor]
    ) -> tuple[list[list[int]], list[tuple[int, int]]]:
        """One index per parameter that has a gradient, from its group's ``(P, K)`` scores; the others keep theirs."""
        choices: list[list[int]] = []
        resets: list[tuple[int, int]] = []
        for (g, indices), J in zip(where, scores, strict=True):
            group = self.param_groups[g]
            previous = torch.tensor([group["last_choice"][i] for i in indices], device=J.device)
            choice = best_candidate(J, previous)
            count = torch.tensor([group["negative_steps"][i] for i in indices], device=J.device)
            count, reset = count_negative(J, choice, count, group["hysteresis_threshold"])
            choices.append(choice.tolist())
            # new lists: a state_dict taken earlier keeps its own
            group["last_choice"] = replaced(group["last_choice"], indices, choices[-1])
            group["negative_steps"] = replaced(group["negative_steps"], indices, count.tolist())
            resets += [(g, i) for i, r in zip(indices, reset.tolist(), strict=True) if r]
        return choices, resets

    def _parameters_with_state(self) -> list[tuple[int, int]]:
        groups = self.param_groups
        return [(g, i) for g, group in enumerate(groups) for i, p in enumerate(group["params"]) if p in self.state]

    # ------------------------------------------------------------------ saved state
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave, as ``torch.optim.Optimizer.load_state_dict``.

        The saved options replace those of the constructor, as in every torch optimizer; where that changes the
        candidates or the type, a warning says so.

        Raises:
            ValueError: the state is another optimizer's or another model's.
        """
        # torch's __setstate__ adds "differentiable" to the defaults, but never to the groups
        expected = (set(self.defaults) - {"differentiable"}) | {"last_choice", "negative_steps", "numel"}
        for saved in state_dict["param_groups"]:
            if missing := sorted(expected - set(saved)):
                raise ValueError(
                    f"this state was not saved by {type(self).__name__}: its groups lack {', '.join(missing)}. "
                    "Load a checkpoint written with the same gap_hf optimizer, or start with fresh optimizer state."
                )
        mine = [group["numel"] for group in self.param_groups]
        if (theirs := [group["numel"] for group in state_dict["param_groups"]]) != mine:
            raise ValueError(
                f"this state is of another model: its groups hold {[len(n) for n in theirs]} parameters with "
                f"{[sum(n) for n in theirs]} elements, this optimizer's {[len(n) for n in mine]} with "
                f"{[sum(n) for n in mine]}"
            )
        before = [(group["type"], self.candidate_labels(group)) for group in self.param_groups]
        super().load_state_dict(state_dict)
        after = [(group["type"], self.candidate_labels(group)) for group in self.param_groups]
        if before != after:
            logger.warning(
                "the loaded state replaces the optimizer's type and candidates: %s becomes %s", before, after
            )


def check_option(name: str, value: Any, good: bool, expected: str) -> None:
    """Raise a ValueError that names the option, its value and what was expected, unless ``good``."""
    if not good:
        raise ValueError(f"{name}={value!r} is out of range; expected {expected}")


def replaced(values: list[int], indices: list[int], new: list[int]) -> list[int]:
    """A copy of ``values`` with ``new`` at ``indices``."""
    copied = list(values)
    for i, value in zip(indices, new, strict=True):
        copied[i] = value
    return copied
