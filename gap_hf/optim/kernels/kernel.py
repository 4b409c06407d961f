"""``Kernel``: one way of doing a family's arithmetic."""

from abc import ABC, abstractmethod
from itertools import chain
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..family import Family, Scored
from ..rules.rule import Rule
from ..work import Work


class Addresses(NamedTuple):
    """The addresses at which the tensors of a work begin in memory.

    Attributes:
        table: uint64, the addresses of N values, N steps, N of each buffer and N gradients, in this order.
        counters: uint64, the different addresses among those of the steps.
        numel: ``(N,)`` int64, the values' element counts.
    """

    table: np.ndarray
    counters: np.ndarray
    numel: np.ndarray


class Kernel(ABC):
    """One way of doing the arithmetic of ``family``. An instance works on one list of fragments from step to step."""

    name: ClassVar[str]

    on_device: ClassVar[bool] = False
    """Whether choices and resets are taken as tensors on the device, so that the host need not wait for them."""

    by_address: ClassVar[bool] = False
    """Whether it must be told where the tensors are."""

    def __init__(self, family: Family) -> None:
        self.family = family

    @staticmethod
    def why_not(dtypes: tuple[torch.dtype, ...]) -> str | None:
        """Return the reason why the kernel can't take ``dtypes``, listed as for ``pick``, or None if it can."""
        return None

    def begin(self, work: Work, addresses: Addresses | None) -> None:  # noqa: B027
        """Get ready for a step of ``work``; ``addresses`` are given to kernels that use them."""

    @abstractmethod
    def tick(self, work: Work) -> None:
        """Add one to each count of steps, and only one if several fragments share it."""

    @abstractmethod
    def observe(self, work: Work, answers: list[Tensor]) -> Tensor:
        """Do what ``Family.observe`` does."""

    @abstractmethod
    def apply(self, work: Work, answers: list[Tensor], choices: Any, resets: Any) -> None:
        """Decay, take the step that was chosen, then scale the buffers of the fragments that are reset.

        Args:
            work: what ``observe`` was handed.
            answers: the sums of the rounds before the scores.
            choices: the N candidates: a list of int, or ``(N,)`` int64 where ``on_device``.
            resets: N flags: a list of bool, or ``(N,)`` bool where ``on_device``.
        """

    @abstractmethod
    def mix(self, work: Work, answers: list[Tensor], weights: Any, resets: Any) -> None:
        """Do what ``apply`` does, with a weighted sum of the candidates' updates.

        Args:
            work: what ``observe`` was handed.
            answers: the sums of the rounds before the scores.
            weights: for each of N fragments K weights: a list of lists, or ``(N, K)`` float64 where ``on_device``.
            resets: see ``apply``.
        """

    @abstractmethod
    def step_constant(self, work: Work, weights: tuple[float, ...]) -> None:
        """Do all of a step that mixes with the same K weights for every fragment, and needs no scores."""


class ChoosingKernel(Kernel):
    """A kernel that can also choose, in one call with the arithmetic: its second pass finds buffers in the cache."""

    rules: ClassVar[tuple[type[Rule], ...]]
    """The rules that it knows."""

    family: Scored

    def __init__(self, family: Scored) -> None:
        super().__init__(family)

    @abstractmethod
    def step(self, rule: Rule, work: Work, threshold: int, kept: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Observe, choose for each fragment, and apply.

        Each fragment must be a whole parameter with a choice of its own.

        Args:
            rule: the rule, one of ``rules``.
            work: the fragments.
            threshold: the hysteresis threshold.
            kept: what is remembered of the step before, N of each; replaced in place.

        Returns:
            A ``(N,)`` bool that says where a reset was due, and what ``observe`` returns.
        """

    @abstractmethod
    def step_for_all(
        self, rule: Rule, work: Work, threshold: int, J_ema: float, kept: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Observe, make one choice for all, and apply, in one call; ``work`` must be all that takes part in the step.

        Args:
            rule: the rule, one of ``rules``.
            work: the fragments, each a whole parameter.
            threshold: the hysteresis threshold.
            J_ema: the factor of the moving average.
            kept: what is remembered of the step before, ``J_bar`` included; replaced in place.

        Returns:
            The scores J, ``(K,)`` float64, and a 0-dim bool that says whether a reset was due.
        """


def locate(work: Work) -> Addresses:
    """Return the addresses of the tensors of ``work``."""
    table, N = table_of(work), len(work.values)
    return Addresses(
        table, np.unique(table[N : N + len(work.steps)]), np.array([value.numel() for value in work.values], np.int64)
    )


def table_of(work: Work) -> np.ndarray:
    """Return the first of the ``Addresses`` of ``work``."""
    return np.array(list(map(Tensor.data_ptr, chain(work.values, work.steps, *work.buffers, work.grads))), np.uint64)
