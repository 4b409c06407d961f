"""The optimizer as torch knows it: groups, ``step``, copies and pickles.

The rest is done elsewhere: ``savable.py`` has the state dictionaries, ``family.py`` says what is computed, ``step.py``
in which order, and ``scope.py`` what a choice is made for; ``gap_hf.sharding`` knows how parameters are laid out over
processes.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from ..sharding import find_layout, prepare
from ..sharding.layout import Layout
from . import loading, options, state
from .correlation import GradientCorrelation
from .family import Grain, TorchsDefault
from .groups import Group
from .kernels.deal import Dealer
from .reading import Reader
from .rules import TYPES
from .savable import Savable
from .scope import started
from .step import Step, refuse_capture
from .takeover import refuse_takeovers

logger = logging.getLogger(__name__)


class GapOptimizer(Savable):
    """The base of the optimizers of all families; it is not used by itself.

    After every ``step``, ``param_group['last_choice']`` is the index of the applied candidate: an ``int`` for
    ``type='switch'`` (the same in all groups) and ``'default'``, a list of ``int`` in the order of the group's
    parameters for ``'switch_parameter_wise'``. A mix applies all candidates: the index is that of the largest weight,
    and ``param_group['last_weights']`` has all K of them, or a list of K for each parameter.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self._forget()
        self.gradient_correlation = GradientCorrelation()
        super().__init__(params, defaults)
        options.warn_of_idle_options(type(self).__name__, self.family, self.param_groups)
        prepare(type(self))
        refuse_takeovers(GapOptimizer)

    def _forget(self) -> None:
        """Forget what was found out about the parameters, and drop a step that has begun."""
        self._layout = None  # how the parameters lie over processes; found at the first step
        self._dealers: dict[tuple[int, int], Dealer] = {}
        self._readers: dict[int, Reader] = {}
        self._step: Step | None = None

    # ------------------------------------------------------------------ groups
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as ``torch.optim.Optimizer.add_param_group`` does.

        Raises:
            ValueError: an option is out of range or disagrees with the other groups, or a parameter is complex.
        """
        merged = {**self.defaults, **param_group}
        options.validate(self.family, self.options, merged)
        K = len(self.family.parse(merged))
        first = self.param_groups[0] if self.param_groups else None
        if first is not None:
            options.validate_together(self.options, [first, merged], [first["K"], K])
        super().add_param_group(param_group)
        group = self.param_groups.pop()
        for p in group["params"]:
            if p.is_complex():
                raise ValueError(
                    f"{type(self).__name__} takes real parameters; one of shape {tuple(p.shape)} is complex"
                )
        self.param_groups.append(started(self.family, group, K, first))

    # ------------------------------------------------------------------ the step
    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Return torch's wrapper around ``step``, kept from ``torch.compile``, which could not speed the kernels up.

        Tracing it, Dynamo would take the optimizer for one of torch's and rewrite its groups
        (``torch/_dynamo/variables/optimizer.py``).
        """
        disabled = torch.compiler.disable(Optimizer.profile_hook_step(func))

        # handed `disabled` as a bound method, the torch.compile of torch 2.6 calls it without the optimizer
        # (`innermost_fn` in torch/_dynamo/eval_frame.py)
        @functools.wraps(func)
        def step(*args: Any, **kwargs: Any) -> Any:
            return disabled(*args, **kwargs)

        return step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Under DeepSpeed ZeRO this is called once per group: all calls but the last only observe.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            What ``closure`` returned, else ``None``.

        Raises:
            RuntimeError: a gradient is sparse, gap_hf is not exact in the layout of the parameters, or a CUDA graph
                captures a step without ``capturable=True``.
            ValueError: something has rewritten the candidates, or what the last step left in the groups.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
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
        """Drop what has been received and observed in a step that will not be finished."""
        self._step = None
        layout.abandon()

    def _take_step(self, layout: Layout) -> None:
        """Take in what this call of ``step`` was handed, and finish the step if it is complete."""
        family = self.family
        wholes = False
        for group in self.param_groups:
            K, grain = self._reader(group).wanted(group)
            options.check_candidates_kept(group, K, family.candidate_option)
            wholes |= grain is Grain.GRADIENT
        torchs_own = TYPES[self.type].rule is None and isinstance(family, TorchsDefault)
        parts = layout.receive(self.param_groups, by_parameter=not torchs_own, wholes=wholes)
        for part in parts:
            layout.check_count(part.g, part.group["count"])
        self.gradient_correlation.look(parts)
        if state.only_makes_state(layout, parts, self.state, family):
            return
        self._step = self._step or Step(family, self.type, layout, self.state, self._reader, self._dealers)
        self._step.observe(parts)
        if not layout.complete():
            return
        self._outcome, self._step = self._step.finish(), None
        layout.publish()
        self.gradient_correlation.end_step()
        self.steps_taken += 1

    def _reader(self, group: dict[str, Any]) -> Reader:
        """Return the reader of the options of ``group``."""
        if id(group) not in self._readers:  # which may be that of a group that is gone: readers compare what they read
            self._readers[id(group)] = Reader(self.family)
        return self._readers[id(group)]

    # ------------------------------------------------------------------ how the parameters lie
    def layout(self) -> Layout | None:
        """Return the parameters' layout over processes now; None while they are being wrapped. Every rank must call it.

        Raises:
            RuntimeError: gap_hf is not exact in this layout.
        """
        if self._layout is None or not self._layout.fits(self.param_groups):
            layout = find_layout(self)
            if layout is not None:
                state.refuse(layout, self.family, self.param_groups)
                layout.verify()
            self._forget()
            self._layout = layout
        return self._layout

    # ------------------------------------------------------------------ copies and pickles
    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles take along: torch's part, and what the last step decided."""
        kept = ("steps_taken", "_outcome")
        return super().__getstate__() | {name: value for name, value in vars(self).items() if name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.param_groups = [group if isinstance(group, Group) else Group(group) for group in self.param_groups]
        if any("K" not in group for group in self.param_groups):
            loading.upgrade(self.family, self.defaults, self.param_groups, self.state)
        self._forget()
        self.gradient_correlation = GradientCorrelation()
