"""The portable kernels, which call the family's own formulas, written in torch operations.

``Foreach`` gives whole lists to torch's ``_foreach`` operations, ``Loop`` one tensor at a time, which needs less
memory.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..arithmetic import eight_bit
from ..arithmetic.operations import Lists, Operations, Singly
from ..family import Scored
from ..work import Buffer, Work
from .chunks import Chunk, chunks, together
from .kernel import Kernel


class Foreach(Kernel):
    """The kernel that hands whole lists of tensors to each operation."""

    name: ClassVar[str] = "foreach"
    ops: ClassVar[Operations] = Lists()
    cuts: ClassVar[bool] = True
    """Whether works are cut into chunks."""

    def tick(self, work: Work) -> None:
        torch._foreach_add_(list({id(step): step for step in work.steps}.values()), 1)

    def observe(self, work: Work, answers: list[Tensor]) -> Tensor:
        if not self.cuts:
            return self.family.observe(self.ops, work, answers)
        found = [
            (chunk.rows, self.family.observe(self.ops, chunk.work, answers)) for chunk in chunks(self.family, work)
        ]
        return together(found, len(work.values))

    def apply(self, work: Work, answers: list[Tensor], choices: Sequence[int], resets: Sequence[bool]) -> None:
        everything = range(len(work.values))
        for choice in sorted(set(choices)):
            mine = [i for i in everything if choices[i] == choice]
            some = work if len(mine) == len(everything) else work.select(mine)
            for chunk in chunks(self.family, some) if self.cuts else [Chunk(mine, some)]:
                self.family.apply(self.ops, chunk.work, selected(answers, mine), choice)
        self.reset(work, resets)

    def mix(
        self, work: Work, answers: list[Tensor], weights: Sequence[Sequence[float]], resets: Sequence[bool]
    ) -> None:
        assert isinstance(self.family, Scored)
        for chunk in chunks(self.family, work) if self.cuts else [Chunk(list(range(len(weights))), work)]:
            self.family.mix(self.ops, chunk.work, answers, [weights[i] for i in chunk.rows])
        self.reset(work, resets)

    def step_constant(self, work: Work, weights: tuple[float, ...]) -> None:
        self.observe(work, [])
        self.mix(work, [], [weights] * len(work.values), [False] * len(work.values))

    def reset(self, work: Work, resets: Sequence[bool]) -> None:
        """Scale all buffers of the fragments that are reset by their soft-reset factors."""
        if not any(resets):
            return
        due = work.select([i for i in range(len(resets)) if resets[i]])
        columns = dict(zip((buffer.name for buffer in due.declared), due.buffers, strict=True))
        for buffer, tensors in zip(due.declared, due.buffers, strict=True):
            if buffer.relative is not None and tensors[0].dtype == torch.uint8:
                for code, v in zip(tensors, columns[buffer.relative.to], strict=True):
                    rescale(due.declared, buffer, code, v)
            elif buffer.soft_reset != 1:
                self.ops.mul_(tensors, buffer.soft_reset)


class Loop(Foreach):
    """The kernel that takes one tensor at a time."""

    name: ClassVar[str] = "loop"
    ops: ClassVar[Operations] = Singly()
    cuts: ClassVar[bool] = False

    def observe(self, work: Work, answers: list[Tensor]) -> Tensor:
        each = ([i] for i in range(len(work.values)))
        found = [super(Loop, self).observe(work.select(row), selected(answers, row)) for row in each]
        return [vector for of_one in found for vector in of_one] if isinstance(found[0], list) else torch.cat(found)

    def apply(self, work: Work, answers: list[Tensor], choices: Sequence[int], resets: Sequence[bool]) -> None:
        for i, (choice, due) in enumerate(zip(choices, resets, strict=True)):
            super().apply(work.select([i]), selected(answers, [i]), [choice], [due])

    def mix(
        self, work: Work, answers: list[Tensor], weights: Sequence[Sequence[float]], resets: Sequence[bool]
    ) -> None:
        for i, (of_one, due) in enumerate(zip(weights, resets, strict=True)):
            super().mix(work.select([i]), selected(answers, [i]), [of_one], [due])


def rescale(declared: Sequence[Buffer], buffer: Buffer, code: Tensor, v: Tensor, due: Tensor | None = None) -> None:
    """Scale a moment in 8 bits by its soft-reset factor, in place; its second moment ``v`` is scaled after it.

    Args:
        declared: all buffers.
        buffer: the moment's.
        code: its codes.
        v: its second moments, float32, as they are before the reset.
        due: 0-dim, whether a reset is due; None if it is. Where it is not, the codes stay what they are.
    """
    assert buffer.relative is not None
    then = next(other.soft_reset for other in declared if other.name == buffer.relative.to)
    m = eight_bit.decode(code, eight_bit.floors(v, buffer.relative.exponent))
    factor = buffer.soft_reset if due is None else torch.where(due, buffer.soft_reset, 1.0)
    after = then if due is None else torch.where(due, then, 1.0)
    code.copy_(eight_bit.encode(m * factor, eight_bit.floors(v * after, buffer.relative.exponent)))


def selected(answers: list[Any], rows: list[int]) -> list[Any]:
    """Pick the answers for the fragments ``rows``; answers over the model, which are 1-D, are the same for all."""

    def of(answer: Any) -> Any:
        if isinstance(answer, list):
            return [answer[i] for i in rows]
        return answer if answer.ndim == 1 else answer[rows]

    return list(map(of, answers))
