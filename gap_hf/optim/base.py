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
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..sharding import deepspeed, find_layout, is_fsdp1
from ..sharding.layout import Fragment, Layout, Part
from .choice import best_candidate, count_negative

logger = logging.getLogger(__name__)

TYPES = ("default", "switch", "switch_parameter_wise")


Groups = dict[int, dict[str, Any]]
"""Parameter groups by number."""


class Observed(NamedTuple):
    """What observing one part gave: its fragments with a gradient, what entered the filter, and their partial sums."""

    part: Part
    live: list[Fragment]
    grads: list[Tensor]
    sums: list[Tensor]


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

    _layout: Layout | None = None
    """How the parameters lie over processes; found at the first step, and again when they were replaced."""

    _observed: tuple[Observed, ...] = ()
    """What earlier calls of this step observed, where the backend calls ``step`` once per group."""

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        deepspeed.prepare(type(self))

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
    def buffers(self, group: dict[str, Any]) -> list[str]:
        """The names of a parameter's buffers in ``group``, each of the parameter's shape."""

    @abstractmethod
    def _torch_step(self, group: dict[str, Any], fragments: list[Fragment]) -> None:
        """The whole step of ``type='default'``, by torch's own function."""

    @abstractmethod
    def _sums(self, group: dict[str, Any]) -> int:
        """S, the number of partial sums per parameter."""

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
    def _soft_reset(self, group: dict[str, Any], fragment: Fragment) -> None:
        """Scale the fragment's buffers."""

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
        group["count"] = len(group["params"])
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

        Under DeepSpeed ZeRO this is called once per group: all calls but the last only observe.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            What ``closure`` returned, else ``None``.

        Raises:
            RuntimeError: a gradient is sparse, or the layout of the parameters is one that gap_hf is not exact in.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        layout = self.layout()
        if layout is None:
            return loss
        parts = layout.receive(self.param_groups, by_parameter=self.type != "default")
        if self._only_makes_state(layout, parts):
            return loss
        if self.type == "default":
            for part in parts:
                self._torch_step(part.group, [f for f in part.fragments if f.grad is not None])
        else:
            self._observed += tuple(self._observe(part) for part in parts)
        if not layout.complete():
            return loss
        observed, self._observed = self._observed, ()
        if self.type != "default":
            self._choose_and_apply(layout, observed)
        layout.publish()
        self.steps_taken += 1
        return loss

    def layout(self) -> Layout | None:
        """How the parameters lie over processes now. Every rank must ask; None while they are still being wrapped.

        Raises:
            RuntimeError: a layout that gap_hf is not exact in.
        """
        if self._layout is None or not self._layout.fits(self.param_groups):
            layout = find_layout(self)
            if layout is not None:
                layout.verify()
            self._layout, self._observed = layout, ()
        return self._layout

    def _only_makes_state(self, layout: Layout, parts: list[Part]) -> bool:
        """Whether this call is no step but torch's way to have the state allocated before loading one.

        ``torch.distributed.checkpoint.state_dict`` does so with zero gradients and a learning rate of zero
        (``_init_optim_state``): the state is made, and nothing else happens.
        """
        if not layout.loads_by_stepping or self.state or any(float(part.group["lr"]) for part in parts):
            return False
        grads = [f.grad for part in parts for f in part.fragments if f.grad is not None]
        nonzero = torch.tensor(float(any(bool(grad.any()) for grad in grads)), device=layout.device)
        if layout.maximum(nonzero):
            return False
        for part in parts:
            for f in part.fragments:
                if f.grad is not None:
                    self._make_state(part.group, f.key)
        return True

    def _make_state(self, group: dict[str, Any], key: Tensor) -> dict[str, Any]:
        """``self.state[key]``, made with zero buffers and ``step`` 0 (both kept) if there is none."""
        state, names = self.state[key], self.buffers(group)
        if not state and names:
            state["step"] = torch.tensor(0.0, dtype=torch.float32)
            for name in names:
                state[name] = torch.zeros_like(key, memory_format=torch.preserve_format)
        return state

    def _observe(self, part: Part) -> Observed:
        """Update the moments of the fragments that have a gradient, and take their partial sums."""
        live, grads = [], []
        for f in part.fragments:
            if f.grad is not None:
                live.append(f)
                grads.append(filtered(part.group, f.value, f.grad))
        # several fragments may share one flat tensor, which has one count of steps
        for key in {id(f.key): f.key for f in live}.values():
            self._make_state(part.group, key)["step"] += 1
        sums = [torch.stack(self._observe_and_score(part.group, f, g)) for f, g in zip(live, grads, strict=True)]
        return Observed(part, live, grads, sums)

    def _choose_and_apply(self, layout: Layout, observed: tuple[Observed, ...]) -> None:
        """Reduce the partial sums, choose, apply, and reset where hysteresis asks for it."""
        groups = {o.part.g: o.part.group for o in observed}
        partial: list[Tensor] = []
        seen: list[Tensor] = []
        for g, group in groups.items():
            table = torch.zeros(len(layout.numel[g]), self._sums(group), dtype=torch.float64, device=layout.device)
            has_grad = torch.zeros(len(layout.numel[g]), dtype=torch.bool, device=layout.device)
            for o in observed:
                if o.part.g == g and o.live:
                    rows = torch.tensor([f.index for f in o.live], device=layout.device)
                    shares = [s.to(layout.device) / f.copies for f, s in zip(o.live, o.sums, strict=True)]
                    table.index_add_(0, rows, torch.stack(shares))
                    has_grad[rows] = True
            partial.append(table)
            seen.append(has_grad)
        tables, live = layout.reduce(partial, seen)
        scores = []
        for (g, group), sums, has_grad in zip(groups.items(), tables, live, strict=True):
            numel = torch.tensor(layout.numel[g], dtype=torch.float64, device=layout.device)
            scores.append(torch.where(has_grad.unsqueeze(1), self._scores(group, sums, numel), 0.0))
        choose = self._choose_for_all if self.type == "switch" else self._choose_per_parameter
        choices, resets = choose(groups, scores, live)
        for o in observed:
            for f, grad in zip(o.live, o.grads, strict=True):
                self._apply(o.part.group, f, grad, choices[o.part.g][f.index])
        for o in observed:
            for f in o.part.fragments:
                if (o.part.g, f.index) in resets and f.key in self.state:
                    self._soft_reset(o.part.group, f)
        self.last_resets = tuple(sorted(resets))

    def _choose_for_all(
        self, groups: Groups, scores: list[Tensor], live: list[Tensor]
    ) -> tuple[dict[int, list[int]], set[tuple[int, int]]]:
        """One index for every parameter, from the ``(P, K)`` scores of each group, summed over all of them."""
        J, any_live = torch.cat(scores).sum(dim=0), torch.cat(live).any()
        first = next(iter(groups.values()))
        previous = torch.tensor(first["last_choice"], device=J.device)
        J_bar = torch.tensor(first["J_bar"], dtype=torch.float64, device=J.device)
        count = torch.tensor(first["negative_steps"], device=J.device)
        # A score that is not finite would stay in the average for ever: such a step leaves average and choice as is.
        # So does one without any gradient.
        counts = J.isfinite().all() & any_live
        J_bar = torch.where(counts, first["J_ema"] * J_bar + (1 - first["J_ema"]) * J, J_bar)
        choice = torch.where(counts, best_candidate(J_bar, previous), previous)
        counted, reset = count_negative(J, choice, count, first["hysteresis_threshold"])
        numbers = torch.stack([choice, torch.where(counts, counted, count), reset & counts]).double()
        # everything comes to the host at once
        index, negative_steps, is_reset, *averages = torch.cat([numbers, J_bar]).tolist()
        for group in groups.values():
            group.update(last_choice=int(index), negative_steps=int(negative_steps), J_bar=list(averages))
        self.last_scores = J
        rows = [(g, i) for g, has_grad in zip(groups, live, strict=True) for i in range(len(has_grad))]
        choices = {g: [int(index)] * len(has_grad) for g, has_grad in zip(groups, live, strict=True)}
        return choices, set(rows if is_reset else ())

    def _choose_per_parameter(
        self, groups: Groups, scores: list[Tensor], live: list[Tensor]
    ) -> tuple[dict[int, list[int]], set[tuple[int, int]]]:
        """One index per parameter that has a gradient, from its group's ``(P, K)`` scores; the others keep theirs."""
        results = []
        for group, J, has_grad in zip(groups.values(), scores, live, strict=True):
            previous = torch.tensor(group["last_choice"], dtype=torch.long, device=J.device)
            count = torch.tensor(group["negative_steps"], dtype=torch.long, device=J.device)
            choice = torch.where(has_grad, best_candidate(J, previous), previous)
            counted, reset = count_negative(J, choice, count, group["hysteresis_threshold"])
            results.append(torch.stack([choice, torch.where(has_grad, counted, count), reset & has_grad], dim=1))
        rows = iter(torch.cat(results).tolist())  # everything comes to the host at once
        choices: dict[int, list[int]] = {}
        resets: set[tuple[int, int]] = set()
        for (g, group), has_grad in zip(groups.items(), live, strict=True):
            mine = [next(rows) for _ in has_grad]
            # new lists: a state_dict taken earlier keeps its own
            choices[g] = group["last_choice"] = [choice for choice, _, _ in mine]
            group["negative_steps"] = [count for _, count, _ in mine]
            resets |= {(g, i) for i, (_, _, reset) in enumerate(mine) if reset}
        return choices, resets

    # ------------------------------------------------------------------ saved state
    def state_dict(self) -> dict[str, Any]:
        """The state, as ``torch.optim.Optimizer.state_dict``.

        Under FSDP1 the state is made before the first step, too: its sharded checkpoints load only what the dictionary
        they are loaded into already has (accelerate's ``load_fsdp_optimizer``), and drop the rest without a word.
        """
        if not self.state and any(is_fsdp1(p) for group in self.param_groups for p in group["params"]):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.requires_grad and p.numel():
                        self._make_state(group, p)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave, as ``torch.optim.Optimizer.load_state_dict``.

        The saved options replace those of the constructor, as in every torch optimizer; where that changes the
        candidates or the type, a warning says so.

        Raises:
            ValueError: the state is another optimizer's or another model's.
        """
        # torch's loading of full state dicts under FSDP2 loses empty lists, which a group without parameters has
        # (distributed/_state_dict_utils.py flattens and rebuilds them)
        nothing: dict[str, Any] = {"last_choice": [], "negative_steps": []}
        groups = [saved if saved["params"] else {**nothing, **saved} for saved in state_dict["param_groups"]]
        state_dict = {**state_dict, "param_groups": groups}
        # torch's __setstate__ adds "differentiable" to the defaults, but never to the groups
        expected = (set(self.defaults) - {"differentiable"}) | {"last_choice", "negative_steps", "count"}
        for saved in state_dict["param_groups"]:
            if missing := sorted(expected - set(saved)):
                raise ValueError(
                    f"this state was not saved by {type(self).__name__}: its groups lack {', '.join(missing)}. "
                    "Load a checkpoint written with the same gap_hf optimizer, or start with fresh optimizer state."
                )
        self._refuse_another_models_state(state_dict)
        before = [(group["type"], self.candidate_labels(group)) for group in self.param_groups]
        super().load_state_dict(state_dict)
        after = [(group["type"], self.candidate_labels(group)) for group in self.param_groups]
        if before != after:
            logger.warning(
                "the loaded state replaces the optimizer's type and candidates: %s becomes %s", before, after
            )

    def _refuse_another_models_state(self, state_dict: dict[str, Any]) -> None:
        mine = [group["count"] for group in self.param_groups]
        if (theirs := [group["count"] for group in state_dict["param_groups"]]) != mine:
            raise ValueError(
                f"this state is of another model: its groups hold {theirs} parameters, this optimizer's {mine}"
            )
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=True):
            for i, (index, p) in enumerate(zip(saved["params"], group["params"], strict=False)):
                for name, value in state_dict["state"].get(index, {}).items():
                    if torch.is_tensor(value) and value.ndim and value.shape != p.shape:
                        raise ValueError(
                            f"this state is of another model, or of another sharding of it: {name} of parameter {i} "
                            f"has the shape {tuple(value.shape)}, the parameter {tuple(p.shape)}"
                        )


def filtered(group: dict[str, Any], value: Tensor, grad: Tensor) -> Tensor:
    """The gradient that enters the filter: with the L2 term where the decay is not decoupled."""
    if group["weight_decay"] and not group.get("decoupled_weight_decay", False):
        return grad.add(value, alpha=group["weight_decay"])
    return grad


def check_option(name: str, value: Any, good: bool, expected: str) -> None:
    """Raise a ValueError that names the option, its value and what was expected, unless ``good``."""
    if not good:
        raise ValueError(f"{name}={value!r} is out of range; expected {expected}")
