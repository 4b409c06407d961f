"""What every GAP optimizer shares: groups, state, and the five words of a step.

*observe* the gradient, *score* the candidates, *reduce* the partial sums, *choose*, *apply*. A family
(``gap_hf.optim.adam``, ``gap_hf.optim.sgd``) says what its buffers and its numbers are; ``gap_hf.optim.kernels`` does
the arithmetic; how parameters are laid out over processes is ``gap_hf.sharding``'s business.

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

from ..sharding import deepspeed, find_layout, is_fsdp1
from ..sharding.layout import Layout, Part
from .groups import Group, held
from .kernels import Rule, eight_bit, pick
from .kernels.deal import Dealer
from .step import Decision, Step, Sums

logger = logging.getLogger(__name__)

TYPES = ("default", "switch", "switch_parameter_wise")


STATE_DTYPES = (None, "float32", "bfloat16", "8bit")


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

    callback: Any = None
    """The callback that watches this optimizer, if any."""

    _resets: tuple[tuple[int, Tensor], ...] = ()
    """For each group, which parameters the last step reset, ``(P,)`` bool."""

    _sums: tuple[Sums, ...] = ()
    """What the last step decided by, of ``'switch_parameter_wise'``."""

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self._forget()
        super().__init__(params, defaults)
        deepspeed.prepare(type(self))

    def _forget(self) -> None:
        """Drop what was found out about the parameters, and a step that has begun."""
        self._layout: Layout | None = None  # how the parameters lie over processes; found at the first step
        self.dealers: dict[tuple[int, int], Dealer] = {}
        self._step = Step()

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
    def buffers(self, group: dict[str, Any]) -> tuple[list[str], list[str]]:
        """The names of a parameter's first and second moments in ``group``, each of the parameter's shape."""

    @abstractmethod
    def rule(self, group: dict[str, Any]) -> Rule:
        """The numbers of ``group``'s update."""

    @abstractmethod
    def _torch_step(self, part: Part) -> None:
        """The whole step of ``type='default'``, by torch's own function; every fragment has a gradient."""

    # ------------------------------------------------------------------ groups
    @property
    def type(self) -> str:
        """``'default'``, ``'switch'`` or ``'switch_parameter_wise'``: the same in all groups."""
        return self.param_groups[0]["type"]

    @property
    def last_resets(self) -> tuple[tuple[int, int], ...]:
        """(group, index) of the parameters whose buffers the last step reset. Waits for the device."""
        return self.decision().reset_parameters()

    def decision(self) -> Decision:
        """What the last step decided, without waiting for the device."""
        device = self._layout.device if self._layout is not None else torch.device("cpu")
        choices = [held(group, "last_choice", device) for group in self.param_groups]
        decision = Decision(choices, self._resets, self.last_scores, self._sums)
        if any(group["capturable"] for group in self.param_groups):  # replayed graphs write into its tensors
            decision = copy.deepcopy(decision)
        return decision

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
        group = self.param_groups[-1] = Group(self.param_groups[-1])
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
        if group["foreach"] and group["fused"]:
            raise ValueError("foreach=True and fused=True exclude each other; give one of them, or neither")
        state_dtype = group["state_dtype"]
        expected = ", ".join(map(repr, STATE_DTYPES))
        check_option("state_dtype", state_dtype, state_dtype in STATE_DTYPES, f"one of {expected}")
        if state_dtype == "8bit":
            eight_bit.tensor_class()
            for flag in ("foreach", "fused", "capturable"):
                if group[flag]:
                    raise ValueError(f"state_dtype='8bit' is done tensor by tensor; leave {flag}=True out")
        if state_dtype and group["type"] == "default":
            raise ValueError(
                f"state_dtype={state_dtype!r} is not for type='default', which is torch.optim's own step and keeps its "
                "state in the parameter's dtype"
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
    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """torch's wrapper around ``step``, as it is under ``torch.compile``, which has nothing to gain on the kernels.

        Tracing it, Dynamo would take the optimizer for one of torch's and rewrite its groups
        (``torch/_dynamo/variables/optimizer.py``).
        """
        return torch.compiler.disable(Optimizer.profile_hook_step(func))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Under DeepSpeed ZeRO this is called once per group: all calls but the last only observe.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            What ``closure`` returned, else ``None``.

        Raises:
            RuntimeError: a gradient is sparse, or the layout of the parameters is one that gap_hf is not exact in, or
                a CUDA graph captures a step without ``capturable=True``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        layout = self.layout()
        if layout is None:
            return loss
        refuse_capture(layout.device, self.param_groups)
        parts = layout.receive(self.param_groups, by_parameter=self.type != "default")
        if self._only_makes_state(layout, parts):
            return loss
        if self.type == "default":
            for part in parts:
                self._torch_step(part.with_grad())
        else:
            self._step.observe(self, layout, parts)
        if not layout.complete():
            return loss
        if self.type != "default":
            self._step.finish(self, layout)
            self._resets, self._sums, self._step = tuple(self._step.resets), tuple(self._step.sums), Step()
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
                self._refuse_8bit(layout)
                layout.verify()
            self._forget()
            self._layout = layout
        return self._layout

    def _refuse_8bit(self, layout: Layout) -> None:
        """Raise where parameters are in pieces: their 8-bit blocks would be other elements than a single process's."""
        if layout.reduces and any(group["state_dtype"] == "8bit" for group in self.param_groups):
            raise RuntimeError(
                "state_dtype='8bit' needs whole parameters (one process, DDP, DeepSpeed ZeRO 0): in a sharded one the "
                "blocks that share a scale would hold other elements. Use state_dtype='bfloat16', which is exact there."
            )

    def _only_makes_state(self, layout: Layout, parts: list[Part]) -> bool:
        """Whether this call is no step but torch's way to have the state allocated before loading one.

        ``torch.distributed.checkpoint.state_dict`` does so with zero gradients and a learning rate of zero
        (``_init_optim_state``): the state is made, and nothing else happens.
        """
        if not layout.loads_by_stepping or self.state or any(float(part.group["lr"]) for part in parts):
            return False
        grads = [grad for part in parts for grad in part.grads if grad is not None]
        nonzero = torch.tensor(float(any(bool(grad.any()) for grad in grads)), device=layout.device)
        if layout.maximum(nonzero):
            return False
        for part in parts:
            for key in part.with_grad().keys:
                self.make_state(part.group, key)
        return True

    def make_state(self, group: dict[str, Any], key: Tensor) -> dict[str, Any]:
        """``self.state[key]``, made with zero buffers and ``step`` 0 (both kept) if there is none."""
        state = self.state[key]
        if not state:
            dtypes = self.buffer_dtypes(group, key)
            if dtypes:
                state["step"] = torch.zeros((), dtype=torch.float32, device=self._step_device(group, key))
            for name, dtype in dtypes.items():
                if dtype is None:
                    state[name] = eight_bit.zeros_like(key)
                else:
                    state[name] = torch.zeros_like(key, dtype=dtype, memory_format=torch.preserve_format)
        return state

    def buffer_dtypes(self, group: dict[str, Any], key: Tensor) -> dict[str, torch.dtype | None]:
        """The names of the buffers of ``key``, and what they are stored in; None stands for 8 bits."""
        kinds = zip(self.buffers(group), state_dtypes(group, key), strict=True)
        return {name: dtype for names, dtype in kinds for name in names}

    def _step_device(self, group: dict[str, Any], key: Tensor) -> torch.device:
        """Where the count of steps of ``key`` lives: with the buffers only where the kernel reads it there."""
        if group["type"] == "default":
            on_device = group["capturable"] or bool(group["fused"])
        else:
            first, second = state_dtypes(group, key)
            if first is None:
                return torch.device("cpu")
            dtypes = (key.dtype, key.dtype, first, second)
            on_device = pick(group["foreach"], group["fused"], key.device.type, dtypes).on_device
        return key.device if on_device else torch.device("cpu")

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
                        self.make_state(group, p)
        return super().state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.param_groups = [group if isinstance(group, Group) else Group(group) for group in self.param_groups]
        self._forget()

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
        self._restore_dtypes(state_dict)
        after = [(group["type"], self.candidate_labels(group)) for group in self.param_groups]
        if before != after:
            logger.warning(
                "the loaded state replaces the optimizer's type and candidates: %s becomes %s", before, after
            )

    def _restore_dtypes(self, state_dict: dict[str, Any]) -> None:
        """Undo torch's casting of state to the parameter's dtype, and put the counts where the kernels read them."""
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=True):
            for index, p in zip(saved["params"], group["params"], strict=False):
                state = self.state.get(p)
                if not state:
                    continue
                state["step"] = state["step"].to(self._step_device(group, p))
                for name, dtype in self.buffer_dtypes(group, p).items():
                    if state[name].dtype != dtype:  # torch has cast it; 8-bit state shows itself as float32
                        state[name] = state_dict["state"][index][name].to(p.device, dtype or torch.float32)

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


def refuse_capture(device: torch.device, param_groups: list[dict[str, Any]]) -> None:
    """Raise RuntimeError where a CUDA graph captures the step without the options for it."""
    if all(group["capturable"] for group in param_groups):
        return
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("a CUDA graph captures this step; build the optimizer with capturable=True for that")


def state_dtypes(group: dict[str, Any], key: Tensor) -> tuple[torch.dtype | None, torch.dtype]:
    """The dtypes of the first and second moments of ``key``; None stands for 8 bits."""
    if group["state_dtype"] is None:
        return key.dtype, key.dtype
    first = {"float32": torch.float32, "bfloat16": torch.bfloat16, "8bit": None}
    return first[group["state_dtype"]], torch.float32


def modulation(group: dict[str, Any], powers: list[float]) -> tuple[float, ...]:
    """Each candidate's factor on the learning rate: nu_j / nu_0 where ``lr_modulation`` is on."""
    return tuple(power / powers[0] if group["lr_modulation"] else 1.0 for power in powers)


def check_option(name: str, value: Any, good: bool, expected: str) -> None:
    """Raise a ValueError that names the option, its value and what was expected, unless ``good``."""
    if not good:
        raise ValueError(f"{name}={value!r} is out of range; expected {expected}")
