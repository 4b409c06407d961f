"""What a kernel is handed: numbers and lists of plain tensors, and nothing of groups, layouts or families.

Shapes: N fragments, K candidates, U second moments (none for SGDM), S = K + U partial sums per fragment.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Rule(NamedTuple):
    """The numbers of a parameter group's update.

    Attributes:
        family: ``"adam"`` or ``"sgdm"``.
        betas: K, beta1 or the momenta.
        betas2: U, the different beta2.
        second: K, which second moment each candidate uses.
        gains: K, factors of the scores.
        modulation: K, factors on the learning rate.
        lr: learning rate; a tensor stays on its device.
        eps: added to the denominator.
        decay: decoupled weight decay.
        l2: weight decay through the gradient.
        dampening: of the gradient in the momentum buffers.
        nesterov: step by the gradient plus momentum times the buffer.
        maximize: take the gradients with the other sign.
        soft_reset: factor on the first moments at a reset.
        second_reset: on the second ones.
        stochastic: round first moments stochastically to bfloat16.
    """

    family: str
    betas: tuple[float, ...]
    betas2: tuple[float, ...]
    second: tuple[int, ...]
    gains: tuple[float, ...]
    modulation: tuple[float, ...]
    lr: float | Tensor
    eps: float = 0.0
    decay: float = 0.0
    l2: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    soft_reset: float = 1.0
    second_reset: float = 1.0
    stochastic: bool = False


@dataclass(slots=True, eq=False)
class Work:
    """Fragments of one group on one device, with a gradient each, and their buffers; N of everything.

    Attributes:
        rule: the group's numbers.
        values: the elements, updated in place.
        grads: their gradients, left alone.
        steps: 0-dim float64, the counts of steps, the current one included once ``Kernel.tick`` has been called.
        first: K lists, the momentum buffers.
        second: U lists, the second moments.
        addresses: of all these tensors, column by column: N values, steps, then first and second moments, and N
            gradients at the end; uint64. Only where the kernel asks for them.
        counters: the different addresses among the steps'; likewise.
        numel: ``(N,)`` int64, the values' element counts; likewise.
        prepared: what a kernel keeps between ``observe`` and ``apply``.
        memory: what it keeps from step to step; the dealer hands it on. To be checked before it is used.
    """

    rule: Rule
    values: list[Tensor]
    grads: list[Tensor]
    steps: list[Tensor]
    first: list[list[Tensor]]
    second: list[list[Tensor]]
    addresses: np.ndarray | None = None
    counters: np.ndarray | None = None
    numel: np.ndarray | None = None
    prepared: Any = None
    memory: dict[str, Any] = field(default_factory=dict)

    def select(self, rows: list[int]) -> "Work":
        """The fragments ``rows``."""
        if len(rows) == len(self.values):
            return self

        def of(tensors: list[Tensor]) -> list[Tensor]:
            return [tensors[i] for i in rows]

        return Work(
            self.rule, of(self.values), of(self.grads), of(self.steps), [*map(of, self.first)], [*map(of, self.second)]
        )


class Kernel(ABC):
    """One way of doing the arithmetic. It has no state; everything is in the work."""

    name: ClassVar[str]

    on_device: ClassVar[bool] = False
    """Whether choices and resets are taken as tensors on the device, so that the host need not wait for them."""

    by_address: ClassVar[bool] = False
    """Whether the work must come with addresses."""

    @abstractmethod
    def tick(self, work: Work) -> None:
        """Add one to each of the counts of steps, once also to those that several fragments share."""

    @abstractmethod
    def observe(self, work: Work) -> Tensor:
        """Update the moments.

        Returns:
            ``(N, S)`` float64 partial sums over each fragment: sum(g r m_j) for the K candidates and sum(r) for the U
            second moments, or sum(g buf_j) in the SGDM family; from the buffers as they are stored.
        """

    @abstractmethod
    def apply(self, work: Work, choices: Any, resets: Any) -> None:
        """Decay, step by the chosen candidate, then scale the buffers of the fragments that are reset.

        Args:
            work: what ``observe`` was handed.
            choices: N candidates: a list of int, or ``(N,)`` int64 where ``on_device``.
            resets: N flags: a list of bool, or ``(N,)`` bool where ``on_device``.
        """


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which values of ``dtype`` are scored."""
    return torch.promote_types(dtype, torch.float32)
