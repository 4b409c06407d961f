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

from ..candidate import Candidate
from ..sharding import before_state_dict, find_layout, prepare
from ..sharding.layout import Layout, Part
from . import loading, options
from .default import for_torchs_kernel
from .groups import Group, held
from .kernels import Rule, eight_bit, pick
from .kernels.deal import Dealer
from .step import Decision, Step, Sums
from .takeover import refuse_takeovers

logger = logging.getLogger(__name__)


class GapOptimizer(Optimizer, ABC):
    """Base of the families. Not used by itself.

    After every ``step``, ``param_group['last_choice']`` is the index of the applied candidate: an ``int`` for
    ``type='switch'`` (the same in all groups) and ``'default'``, a list of ``int`` in the order of the group's
    parameters for ``'switch_parameter_wise'``.
    """

    candidate_name: ClassVar[str] = "candidate"
    """What a candidate is called in logs: ``beta1`` or ``momentum``."""

    candidate_option: ClassVar[str]
    """The option that lists the candidates: ``betas`` or ``momentum``."""

    steps_taken = 0
    """Calls of ``step`` in this process; not saved. Tells an observer whether a step happened since it looked."""

    last_scores: Tensor | None = None
    """Raw J of the last ``'switch'`` step, ``(K,)`` float64; ``None`` for the other types."""

    _resets: tuple[tuple[int, Tensor], ...] = ()
    """For each group, which parameters the last step reset, ``(P,)`` bool."""

    _sums: tuple[Sums, ...] = ()
    """What the last step decided by, of ``'switch_parameter_wise'``."""

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self._forget()
        super().__init__(params, defaults)
        if self.type != "default" and all(group["K"] == 1 for group in self.param_groups):
            logger.warning(
                "%s has type=%r, but %s=%r is a single candidate: there is nothing to choose. Give a list of them, or "
                "type='default'",
                type(self).__name__, self.type, self.candidate_option, self.param_groups[0][self.candidate_option],
            )  # fmt: skip
        prepare(type(self))
        refuse_takeovers(GapOptimizer)

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
    def candidate_list(self, group: dict[str, Any]) -> list[Candidate]:
        """The K candidates as logs, plots and files know them."""

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
        K = [group["K"] for group in self.param_groups]
        decision = Decision(choices, K, self._resets, self.last_scores, self._sums)
        if any(group["capturable"] for group in self.param_groups):  # replayed graphs write into its tensors
            decision = copy.deepcopy(decision)
        return decision

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as ``torch.optim.Optimizer.add_param_group``.

        Raises:
            ValueError: an option is out of range or disagrees with the other groups, or a parameter is complex.
        """
        merged = {**self.defaults, **param_group}
        self.validate(merged)
        K = len(self.candidates(merged))
        first = self.param_groups[0] if self.param_groups else None
        if first is not None:
            options.validate_together([first, merged], [first["K"], K])
        super().add_param_group(param_group)
        group = self.param_groups[-1] = Group(self.param_groups[-1])
        for p in group["params"]:
            if p.is_complex():
                self.param_groups.pop()
                raise ValueError(
                    f"{type(self).__name__} takes real parameters; one of shape {tuple(p.shape)} is complex"
                )
        group["count"], group["K"] = len(group["params"]), K
        if self.type == "switch_parameter_wise":
            group["last_choice"] = [0] * len(group["params"])
            group["negative_steps"] = [0] * len(group["params"])
        elif first is not None:  # one choice for all: a group that joins late takes over what the others have
            for key in ("last_choice", "negative_steps", "J_bar"):
                group[key] = copy.copy(first[key])
        else:
            group["last_choice"] = 0
            group["negative_steps"] = 0
            group["J_bar"] = [0.0] * K

    def validate(self, group: dict[str, Any]) -> None:
        """Check all options of ``group``. Raises ValueError."""
        options.validate(group, len(self.candidates(group)))
        self._validate(group)

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
            ValueError: something has rewritten the candidates, or what the last step left in the groups.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        layout = self.layout()
        if layout is None:
            return loss
        refuse_capture(layout.device, self.param_groups)
        if layout.was_interrupted(self.param_groups):
            logger.warning("the step before was interrupted between two parameter groups; it is dropped")
            self._abandon_step(layout)
        try:
            self._take_step(layout)
        except BaseException:  # also an interrupt: the next step begins with nothing of this one
            self._abandon_step(layout)
            raise
        return loss

    def _abandon_step(self, layout: Layout) -> None:
        """Drop what has been received and observed of a step that will not be finished."""
        self._step = Step()
        layout.abandon()

    def _take_step(self, layout: Layout) -> None:
        """What ``step`` does with what it was handed."""
        for group in self.param_groups:
            options.check_candidates_kept(group, len(self.candidates(group)), self.candidate_option)
        parts = layout.receive(self.param_groups, by_parameter=self.type != "default")
        for part in parts:
            layout.check_count(part.g, part.group["count"])
        if self._only_makes_state(layout, parts):
            return
        if self.type == "default":
            for part in parts:
                self._torch_step(for_torchs_kernel(part.with_grad()))
        else:
            self._step.observe(self, layout, parts)
        if not layout.complete():
            return
        if self.type != "default":
            self._step.finish(self, layout)
            self._resets, self._sums, self._step = tuple(self._step.resets), tuple(self._step.sums), Step()
        layout.publish()
        self.steps_taken += 1

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
        if not layout.loads_by_stepping or any(self.state.values()) or any(float(part.group["lr"]) for part in parts):
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
        if state := self.state.get(key):
            return state
        made: dict[str, Tensor] = {}
        dtypes = self.buffer_dtypes(group, key)
        if dtypes:
            dtype, device = self.step_dtype_and_device(group, key)
            made["step"] = torch.zeros((), dtype=dtype, device=device)
        for name, stored in dtypes.items():
            if stored is None:
                made[name] = eight_bit.zeros_like(key)
            else:
                made[name] = torch.zeros_like(key, dtype=stored, memory_format=torch.preserve_format)
        self.state[key] = made  # all at once: an interrupt leaves none rather than half of it
        return made

    def buffer_dtypes(self, group: dict[str, Any], key: Tensor) -> dict[str, torch.dtype | None]:
        """The names of the buffers of ``key``, and what they are stored in; None stands for 8 bits."""
        kinds = zip(self.buffers(group), state_dtypes(group, key), strict=True)
        return {name: dtype for names, dtype in kinds for name in names}

    def step_dtype_and_device(self, group: dict[str, Any], key: Tensor) -> tuple[torch.dtype, torch.device]:
        """What the count of steps of ``key`` is, and where: with the buffers only where the kernel reads it there.

        float32, which torch.optim counts in, stands still at 2^24.
        """
        if group["type"] == "default":
            # what torch's own kernels read on a device
            on_device, dtype = group["capturable"] or bool(group["fused"]), torch.float32
        else:
            first, second = state_dtypes(group, key)
            if first is None:
                return torch.float64, torch.device("cpu")
            dtypes = (key.dtype, key.dtype, first, second)
            on_device, dtype = pick(group["foreach"], group["fused"], key.device.type, dtypes).on_device, torch.float64
        return (dtype, key.device) if on_device else (torch.float64, torch.device("cpu"))

    # ------------------------------------------------------------------ saved state
    def state_dict(self) -> dict[str, Any]:
        """The state, as ``torch.optim.Optimizer.state_dict``; under FSDP1 it is made before the first step, too."""
        before_state_dict(self)
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take along: torch's, and what the last step decided."""
        kept = ("steps_taken", "last_scores", "_resets", "_sums")
        return super().__getstate__() | {name: value for name, value in vars(self).items() if name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.param_groups = [group if isinstance(group, Group) else Group(group) for group in self.param_groups]
        for group in self.param_groups:
            if "K" not in group:  # pickled by version 0.1.0
                self._upgrade(group)
        self._forget()

    def _upgrade(self, group: dict[str, Any]) -> None:
        """Add what a group of version 0.1.0 lacks, and make its counts of steps what the kernels read."""
        for options_ in (self.defaults, group):
            for key, value in ADDED_SINCE_0_1_0.items():
                options_.setdefault(key, value)
        group["K"] = len(self.candidates(group))
        for p in group["params"]:
            if state := self.state.get(p):
                dtype, device = self.step_dtype_and_device(group, p)
                state["step"] = torch.as_tensor(state["step"]).to(device, dtype)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave, after the hooks, as ``torch.optim.Optimizer.load_state_dict``.

        Everything is checked first. Most saved options replace those of the constructor, as in every torch optimizer;
        the documentation's page on resuming has the table. Where they differ, one line in the log tells what was taken
        from where.

        Raises:
            ValueError: the state is another optimizer's or another model's, or is damaged. The optimizer is as before.
        """
        state_dict = copy.copy(state_dict)  # hooks may replace its entries
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = before(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        loaded = loading.check(self, state_dict)
        self.__setstate__({"state": loaded.state, "param_groups": loaded.param_groups})
        loading.tell(loaded.notes)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)


ADDED_SINCE_0_1_0 = {"maximize": False, "differentiable": False}


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


def number(lr: float | Tensor) -> Any:
    """A learning rate as kernels take it: one in a tensor stays there, others become floats."""
    return lr if isinstance(lr, Tensor) else float(lr)
