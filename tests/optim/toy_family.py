"""A family in one file: SGD by the gradient over its norm, with a memory of each row's squares."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch

from gap_hf.candidate import Candidate
from gap_hf.optim.family import Family, Grain, Option, Round
from gap_hf.optim.options import given, is_number
from gap_hf.optim.shell import GapOptimizer
from gap_hf.optim.work import Buffer


class Numbers(NamedTuple):
    lr: float
    floor: float


class Toy(Family):
    """Three rounds: each parameter's norm, then the largest share that a row has, and what is scored."""

    name, candidate_name, candidate_option = "toy", "floor", "floor"
    grain = Grain.PARAMETER
    rounds: ClassVar = (Round("parameter", 1), Round("model", 2))
    options: ClassVar = {"floor": Option("the least norm.", is_number, "a number")}

    def parse(self, options: Mapping[str, Any]) -> list[float]:
        return [float(options["floor"])]

    def candidates(self, options: Mapping[str, Any]) -> list[Candidate]:
        return [Candidate(str(options["floor"]), options["floor"], self.name)]

    def buffers(self, options: Mapping[str, Any]) -> list[Buffer]:
        rows = lambda shape: torch.Size(shape[:1])
        return [Buffer("rows", shape=rows, dtype=torch.float64, fill=1.0, nonnegative=True)]

    def numbers(self, options: Mapping[str, Any]) -> Numbers:
        return Numbers(float(options["lr"]), float(options["floor"]))

    def observe(self, ops, work, answers):
        squares = [g.double().square() for g in work.grads]
        if len(answers) == 0:
            for rows, square in zip(work.buffers[0], squares, strict=True):
                rows += square.flatten(1).sum(1)
            return torch.stack([square.sum().view(1) for square in squares])
        if len(answers) == 1:
            norms = answers[0]
            assert norms.shape == (len(work.values), 1)
            return torch.cat([norms, torch.ones_like(norms)], dim=1)
        assert answers[1].shape == (2,)
        return torch.zeros(len(work.values), 0, dtype=torch.float64)

    def apply(self, ops, work, answers, choice):
        norms, (total, count) = answers
        mean = total / count
        for p, g, (square,) in zip(work.values, work.grads, norms, strict=True):
            p.sub_(g * (work.numbers.lr * square / mean / square.sqrt().clamp(min=work.numbers.floor)).to(g.dtype))


class ToySGD(GapOptimizer):
    """A toy.

    Args:
        params: parameters.
        {options}
    """

    family = Toy()

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        floor: float = 1e-8,
        type: str = "default",
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, given(locals()))
