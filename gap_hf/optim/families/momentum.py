"""What families with momentum over a direction have in common, whatever the direction is."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...candidate import Candidate
from ..arithmetic.operations import Operations
from ..arithmetic.precision import cast, compute_dtype, store
from ..family import Scored
from ..uploads import constant
from ..work import Work
from .common import parse_momentum


class MomentumFamily(Scored):
    """A family whose candidates are momenta over one direction; its last sum is that of the metric's trace."""

    def parse(self, options: Mapping[str, Any]) -> list[float]:
        return parse_momentum(options["momentum"])

    def candidates(self, options: Mapping[str, Any]) -> list[Candidate]:
        return [Candidate(f"{m:g}", m, self.name) for m in self.parse(options)]

    def decays(self, options: Mapping[str, Any]) -> tuple[float, ...]:
        return tuple(self.parse(options))

    @abstractmethod
    def direction(self, ops: Operations, work: Work) -> list[Tensor]:
        """Return the direction of each fragment once more: that of a candidate without a buffer."""

    def sums(self, numbers: Any) -> int:
        return len(numbers.momenta) + 1

    def scores(self, numbers: Any, sums: Tensor, numel: Tensor) -> Tensor:
        W = sums[:, -1:] / numel.unsqueeze(1)
        gains = constant(numbers.gains, sums.dtype, sums.device)
        # a parameter without elements scores 0, not 0 / 0
        return torch.where(numel.unsqueeze(1) > 0, gains * sums[:, :-1] / W.sqrt(), 0.0)

    def apply(self, ops: Operations, work: Work, answers: list[Tensor], candidate: int) -> None:
        sizes = [float(j == candidate) for j in range(len(work.numbers.momenta))]
        self.mix(ops, work, answers, [sizes] * len(work.values))

    def mix(self, ops: Operations, work: Work, answers: list[Tensor], weights: Sequence[Sequence[float]]) -> None:
        numbers = work.numbers
        values = cast(work.values, compute_dtype(work.values[0].dtype))
        total: list[Tensor] = []
        for j, place in enumerate(numbers.first):
            if not any(of_each[j] for of_each in weights):
                continue
            rate = -float(numbers.lr) * numbers.modulation[j]
            moment = self.direction(ops, work) if place is None else work.buffers[place]
            part = list(ops.mul(cast(moment, values[0].dtype), [rate * of_each[j] for of_each in weights]))
            if total:
                ops.add_(total, part)
            else:
                total = part
        ops.add_(values, total)
        store(ops, work.values, values)
