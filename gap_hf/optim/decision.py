"""A step's decision, which stays on the device until somebody asks for it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .family import Scored
from .uploads import constant

CPU = torch.device("cpu")


class Sums(NamedTuple):
    """The sums behind the scores of some of a group's parameters, kept in case somebody asks for the scores.

    Attributes:
        g: the group's number.
        rows: the N parameters' places among the group's P parameters.
        family: the family that turns the sums into scores.
        numbers: the group's numbers.
        sums: ``(N, S)`` float64, sums over whole parameters.
        numel: the element counts of all P.
        with_grad: ``(N,)`` bool, which of them have a gradient; None where all have.
    """

    g: int
    rows: Sequence[int]
    family: Scored
    numbers: Any
    sums: Tensor
    numel: Sequence[int]
    with_grad: Tensor | None

    def everything(self) -> bool:
        """Whether the rows are all the parameters of the group, in order."""
        return list(self.rows) == list(range(len(self.numel)))

    def scores(self) -> Tensor:
        """Compute the scores J, ``(N, K)`` float64, on the CPU."""
        # a list as an index is slow, and mostly not needed
        here = slice(None) if self.everything() else list(self.rows)
        numel = constant(tuple(self.numel), torch.float64, CPU)[here]
        return self.family.scores(self.numbers, self.sums.cpu(), numel)


class Outcome(NamedTuple):
    """The results of one step, apart from the groups' choices.

    Attributes:
        resets: pairs of a group's number and a ``(P,)`` bool that says which of its parameters were reset.
        scores: ``(K,)`` float64 raw scores, where there was one choice for all.
        sums: the sums that the choices were made by, where each parameter had its own choice.
    """

    resets: tuple[tuple[int, Tensor], ...] = ()
    scores: Tensor | None = None
    sums: tuple[Sums, ...] = ()


class Decision(NamedTuple):
    """What one step decided, as tensors on the devices that computed them. Its methods wait for the device.

    Attributes:
        choices: for each group, ``(P,)`` int64 where each parameter has its own choice, else 0-dim.
        K: for each group, the number of its candidates.
        resets: see ``Outcome``.
        scores: see ``Outcome``.
        sums: see ``Outcome``.
        weights: for each group the weights that a mix gave its candidates by their scores, ``(P, K)`` float64 where
            each parameter has its own, else ``(K,)``; empty for types that pick and for constant weights.
    """

    choices: list[Tensor]
    K: list[int]
    resets: tuple[tuple[int, Tensor], ...]
    scores: Tensor | None
    sums: tuple[Sums, ...]
    weights: list[Tensor]

    def last_choice(self) -> list[Any]:
        """Return each group's choices, in the form of ``param_group['last_choice']``."""
        return [choice.tolist() for choice in self.choices]

    def reset_parameters(self) -> tuple[tuple[int, int], ...]:
        """List the (group, index) pairs of the parameters whose buffers were reset."""
        return tuple(sorted((g, i) for g, resets in self.resets for i, due in enumerate(resets.tolist()) if due))

    def scores_by_parameter(self) -> list[Tensor]:
        """Return each group's raw scores, float64 on the CPU.

        Returns:
            For each group ``(P, K)``, with rows of NaN for parameters without a gradient; if there was one choice
            for all, ``(K,)``, the same for all groups.
        """
        if self.scores is not None:
            return [self.scores.cpu()] * len(self.choices)
        found = [
            torch.full((*choice.shape, K), math.nan, dtype=torch.float64, device=CPU)
            for choice, K in zip(self.choices, self.K, strict=True)
        ]
        for some in self.sums:
            here = slice(None) if some.everything() else list(some.rows)
            J = some.scores()
            if some.with_grad is not None:  # rows without one may be another's, where a group has several kernels
                J = torch.where(some.with_grad.cpu().unsqueeze(1), J, found[some.g][here])
            found[some.g][here] = J
        return found

    def not_counted(self) -> list[int]:
        """Count, for each group, the parameters with a gradient whose score was not finite, so that their choice stood.

        If there is one choice for all, there is one set of scores: the count is 1 in every group or 0 in every group.
        """
        if self.scores is not None:
            return [int(not all(map(math.isfinite, self.scores.tolist())))] * len(self.choices)
        counts = [0] * len(self.choices)
        for some in self.sums:
            says_nothing = ~some.scores().isfinite().all(dim=-1)
            counts[some.g] += int(
                (says_nothing if some.with_grad is None else says_nothing & some.with_grad.cpu()).sum()
            )
        return counts
