"""How one flat row holds the parameters of a run, and what all batched optimizers have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor


class Layout:
    """P parameters in rows of N numbers.

    Attributes:
        shapes: of the parameters.
        sizes: how many numbers each has.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self.shapes, self.sizes = list(shapes), [prod(shape) for shape in shapes]

    def cut(self, flat: Tensor) -> list[Tensor]:
        """The parameters ``(R, *shape)`` of a tensor ``(R, N)``."""
        pieces = flat.split(self.sizes, dim=1)
        return [piece.view(len(flat), *shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def sums(self, flat: Tensor) -> Tensor:
        """Add up each parameter: from ``(..., N)`` to ``(..., P)`` float64."""
        return torch.stack([piece.sum(-1) for piece in flat.split(self.sizes, dim=-1)], -1).double()

    def combine(self, factors: Tensor, buffers: Sequence[Tensor]) -> Tensor:
        """Add up the K buffers ``(R, N)``, each times its factor.

        Args:
            factors: ``(R, Q, K)``, with Q = 1 for all parameters or Q = P.
            buffers: the buffers.
        """
        factors = factors.to(buffers[0].dtype)
        if factors.shape[1] == 1:
            total = buffers[0] * factors[:, :, 0]
            for j, buffer in enumerate(buffers[1:], 1):
                total.addcmul_(buffer, factors[:, :, j])
            return total
        total = torch.empty_like(buffers[0])
        pieces = [buffer.split(self.sizes, dim=1) for buffer in buffers]
        for q, piece in enumerate(total.split(self.sizes, dim=1)):
            torch.mul(pieces[0][q], factors[:, q, :1], out=piece)
            for j in range(1, len(buffers)):
                piece.addcmul_(pieces[j][q], factors[:, q, j : j + 1])
        return total

    def scale(self, factors: Tensor, buffers: Sequence[Tensor]) -> None:
        """Multiply the buffers in place by ``(R, Q)`` factors."""
        factors = factors.to(buffers[0].dtype)
        for buffer in buffers:
            pieces = (buffer,) if factors.shape[1] == 1 else buffer.split(self.sizes, dim=1)
            for q, piece in enumerate(pieces):
                piece.mul_(factors[:, q : q + 1])


class Setting(NamedTuple):
    """What an optimizer is built for.

    Attributes:
        layout: where the parameters lie.
        start: the starting weights ``(R, N)``.
        lr: the learning rates ``(R, 1)``.
        seeds: of the runs.
        steps: how many there will be.
        decay: of the weights, decoupled.
    """

    layout: Layout
    start: Tensor
    lr: Tensor
    seeds: Sequence[int]
    steps: int
    decay: float


class Batched(ABC):
    """An optimizer of R runs."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.t = setting, 0

    @abstractmethod
    def step(self, p: Tensor, g: Tensor, schedule: float) -> None:
        """Move the weights ``p`` in place; the learning rate is that of the setting times ``schedule``."""

    def final(self, p: Tensor) -> Tensor:
        """The weights that are evaluated."""
        return p

    def shares(self) -> tuple[Tensor, Tensor] | None:
        """(share of the steps on which each candidate had the largest weight, mean weight), ``(R, K)`` each."""
        return None

    def zeros(self) -> Tensor:
        """A buffer."""
        return torch.zeros_like(self.setting.start)
