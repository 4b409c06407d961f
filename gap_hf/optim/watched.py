"""The questions that others may ask a gap optimizer: its candidates, and what the last step decided."""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..candidate import Candidate
from ..sharding.layout import Layout
from .decision import Decision, Outcome
from .family import Family
from .groups import held
from .options import Declared, declared, described
from .rules.mix import BY_SCORE


class Watched:
    """The part of an optimizer that logs, files and plots read."""

    family: ClassVar[Family]
    """The family, which does the arithmetic."""

    options: ClassVar[dict[str, Declared]]
    """The constructor's options, by name."""

    candidate_name: ClassVar[str]
    """What a candidate is called in logs: ``beta1`` or ``momentum``."""

    candidate_option: ClassVar[str]
    """The option that lists the candidates: ``betas`` or ``momentum``."""

    param_groups: list[dict[str, Any]]

    steps_taken = 0
    """Steps that were finished; not in ``state_dict``. Tells an observer whether one happened since it looked."""

    _layout: Layout | None = None
    _outcome = Outcome()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Join the family's options with the constructor that declares them, and list them in the docstring."""
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "family"):  # the base of all
            return
        constructs = next(base for base in cls.__mro__ if "__init__" in vars(base))
        if not issubclass(constructs, Watched):  # a wrapper that passes for the class of what it wraps, as Lightning's
            return
        cls.options = declared(cls.__init__, cls.family)
        cls.candidate_name, cls.candidate_option = cls.family.candidate_name, cls.family.candidate_option
        if cls.__doc__:
            cls.__doc__ = cls.__doc__.replace("{options}", described(cls.options))

    @property
    def type(self) -> str:
        """The option ``type``, which is the same in all groups."""
        return self.param_groups[0]["type"]

    def candidates(self, group: Mapping[str, Any]) -> list[Any]:
        """The K candidates of ``group`` as its options list them. Raises ValueError if they are malformed."""
        return self.family.parse(group)

    def candidate_list(self, group: Mapping[str, Any]) -> list[Candidate]:
        """The K candidates of ``group`` as logs, plots and files know them."""
        return self.family.candidates(group)

    @property
    def last_scores(self) -> Tensor | None:
        """The raw scores J of the last step with one choice for all, ``(K,)`` float64; ``None`` without any."""
        return self._outcome.scores

    @property
    def last_resets(self) -> tuple[tuple[int, int], ...]:
        """The (group, index) pairs of the parameters whose buffers the last step reset. This waits for the device."""
        return self.decision().reset_parameters()

    def decision(self) -> Decision:
        """Return what the last step decided, without waiting for the device."""
        device = self._layout.device if self._layout is not None else torch.device("cpu")
        choices = [held(group, "last_choice", device) for group in self.param_groups]
        # of all groups, since some may have constant weights beside others that follow the scores
        by_score = any(group.get("weights") == BY_SCORE for group in self.param_groups)
        weights = [held(group, "last_weights", device) for group in self.param_groups] if by_score else []
        decision = Decision(choices, [group["K"] for group in self.param_groups], *self._outcome, weights)
        if any(group.get("capturable") for group in self.param_groups):  # replayed graphs write into its tensors
            decision = copy.deepcopy(decision)
        return decision
