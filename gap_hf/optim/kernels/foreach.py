"""The portable kernels, which call the family's own formulas, written in torch operations.

``Foreach`` gives whole lists to torch's ``_foreach`` operations, ``Loop`` one tensor at a time, which needs less
memory.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..arithmetic.operations import Lists, Operations, Singly
from ..arithmetic.precision import scale
from ..family import Choice
from ..work import Work
from .kernel import Kernel


class Foreach(Kernel):
    """The kernel that hands whole lists of tensors to each operation."""

    name: ClassVar[str] = "foreach"
    ops: ClassVar[Operations] = Lists()

    def tick(self, work: Work) -> None:
        torch._foreach_add_(list({id(step): step for step in work.steps}.values()), 1)

    def observe(self, work: Work, answers: list[Tensor]) -> Tensor:
        return self.family.observe(self.ops, work, answers)

    def apply(self, work: Work, answers: list[Tensor], choices: Sequence[Choice], resets: Sequence[bool]) -> None:
        everything = range(len(work.values))
        for choice in sorted(set(choices)):
            mine = [i for i in everything if choices[i] == choice]
            some = work if len(mine) == len(everything) else work.select(mine)
            self.family.apply(self.ops, some, selected(answers, mine), choice)
        if any(resets):
            reset(self.ops, work.select([i for i in everything if resets[i]]))


class Loop(Foreach):
    """The kernel that takes one tensor at a time."""

    name: ClassVar[str] = "loop"
    ops: ClassVar[Operations] = Singly()

    def observe(self, work: Work, answers: list[Tensor]) -> Tensor:
        each = ([i] for i in range(len(work.values)))
        return torch.cat([super(Loop, self).observe(work.select(row), selected(answers, row)) for row in each])

    def apply(self, work: Work, answers: list[Tensor], choices: Sequence[Choice], resets: Sequence[bool]) -> None:
        for i, (choice, due) in enumerate(zip(choices, resets, strict=True)):
            super().apply(work.select([i]), selected(answers, [i]), [choice], [due])


def selected(answers: list[Tensor], rows: list[int]) -> list[Tensor]:
    """Pick the answers for the fragments ``rows``; answers over the model, which are 1-D, are the same for all."""
    return [answer if answer.ndim == 1 else answer[rows] for answer in answers]


def reset(ops: Operations, work: Work) -> None:
    """Scale all buffers by their soft-reset factors."""
    for buffer, tensors in zip(work.declared, work.buffers, strict=True):
        if buffer.soft_reset != 1:
            scale(ops, tensors, buffer.soft_reset)
