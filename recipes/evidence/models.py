"""The tasks: models whose every parameter is a tensor with a leading dimension for the runs, and their data.

A run has the starting weights and the batches of its seed. Runs are ordered by seed, then by learning rate, so that L
runs in a row share their batches; a batch therefore has the leading dimension of the seeds.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from math import prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Labelled

Shape = tuple[int, ...]
Batch = tuple[Tensor, ...]


class Task(ABC):
    """A model and its data.

    Attributes:
        shapes: of the parameters of one run.
    """

    shapes: list[Shape]

    @abstractmethod
    def start(self, generator: torch.Generator) -> list[Tensor]:
        """The starting weights of one run."""

    @abstractmethod
    def draw(self, generator: torch.Generator, steps: int) -> Tensor:
        """What one run's batches are made from, the steps in the first dimension."""

    @abstractmethod
    def batch(self, drawn: Tensor) -> Batch:
        """One batch for each seed, from what was drawn for this step, the seeds in the first dimension."""

    @abstractmethod
    def losses(self, weights: Sequence[Tensor], batch: Batch) -> Tensor:
        """The loss of each run; ``batch`` has the leading dimension of the seeds, or 1 for all."""

    @abstractmethod
    def held_out(self) -> Batch:
        """What the final loss is measured on, with the leading dimension 1."""

    def evaluate(self, weights: Sequence[Tensor]) -> Tensor:
        """The held-out loss of each run."""
        batch = self.held_out()
        with torch.no_grad():
            return torch.cat([self.losses([w[r : r + 1] for w in weights], batch) for r in range(len(weights[0]))])


def per_run(batch: Tensor, runs: int) -> Tensor:
    """Repeat each seed's rows for all of its runs."""
    if len(batch) == 1:
        return batch.expand(runs, *batch.shape[1:])
    return batch.repeat_interleave(runs // len(batch), dim=0)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of each run: logits ``(R, rows, classes)``, labels ``(R, rows)``."""
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return loss.view(len(logits), -1).mean(1)


def scaled_normal(shapes: Sequence[Shape], generator: torch.Generator, gain: float = 2.0) -> list[Tensor]:
    """Weights of variance gain / inputs, and biases of 0 (of one dimension or (1, n))."""
    return [
        torch.randn(shape, generator=generator) * sqrt(gain / prod(shape[:-1])) if prod(shape[:-1]) > 1
        else torch.zeros(shape)
        for shape in shapes
    ]  # fmt: skip


class Rows(Task):
    """A task on labelled rows, drawn with replacement."""

    def __init__(self, data: Labelled, size: int) -> None:
        self.data, self.size = data, size

    def draw(self, generator: torch.Generator, steps: int) -> Tensor:
        return torch.randint(len(self.data.train), (steps, self.size), generator=generator)

    def batch(self, drawn: Tensor) -> Batch:
        return self.data.train[drawn], self.data.train_labels[drawn]

    def held_out(self) -> Batch:
        return self.data.held_out[None], self.data.held_out_labels[None]


class Mlp(Rows):
    """Layers of the given widths with ReLU between them."""

    def __init__(self, data: Labelled, size: int, widths: Sequence[int]) -> None:
        super().__init__(data, size)
        self.shapes = [shape for n, m in pairwise(widths) for shape in ((n, m), (1, m))]

    def start(self, generator: torch.Generator) -> list[Tensor]:
        return scaled_normal(self.shapes, generator)

    def outputs(self, weights: Sequence[Tensor], x: Tensor) -> Tensor:
        """The last layer's outputs."""
        x = per_run(x, len(weights[0]))
        for k in range(0, len(weights), 2):
            x = self.between(x) if k else x
            x = torch.baddbmm(weights[k + 1], x, weights[k])
        return x

    def between(self, x: Tensor) -> Tensor:
        """The activation."""
        return x.relu()

    def losses(self, weights: Sequence[Tensor], batch: Batch) -> Tensor:
        return cross_entropy(self.outputs(weights, batch[0]), per_run(batch[1], len(weights[0])))


class Autoencoder(Mlp):
    """A deep autoencoder with tanh: its loss is the mean squared error."""

    def start(self, generator: torch.Generator) -> list[Tensor]:
        return scaled_normal(self.shapes, generator, gain=1.0)

    def between(self, x: Tensor) -> Tensor:
        return x.tanh()

    def losses(self, weights: Sequence[Tensor], batch: Batch) -> Tensor:
        return (self.outputs(weights, batch[0]) - per_run(batch[0], len(weights[0]))).square().mean((1, 2))


class Cnn(Rows):
    """Two convolutions of 3 x 3 with a stride of 2, and a linear layer, on 14 x 14 pixels."""

    def __init__(self, data: Labelled, size: int, channels: tuple[int, int] = (8, 16)) -> None:
        super().__init__(data, size)
        a, b = channels
        self.shapes = [(a, 1, 3, 3), (a,), (b, a, 3, 3), (b,), (b * 16, 10), (1, 10)]

    def start(self, generator: torch.Generator) -> list[Tensor]:
        inputs = [9, 0, 9 * self.shapes[0][0], 0, self.shapes[4][0], 0]
        return [
            torch.randn(shape, generator=generator) * sqrt(2 / n) if n else torch.zeros(shape)
            for shape, n in zip(self.shapes, inputs, strict=True)
        ]

    def losses(self, weights: Sequence[Tensor], batch: Batch) -> Tensor:
        runs = len(weights[0])
        x = per_run(batch[0], runs).unflatten(-1, (14, 14)).transpose(0, 1)  # the runs are the groups of the channels
        for k in (0, 2):
            kernel, bias = weights[k].flatten(0, 1), weights[k + 1].flatten()
            x = F.conv2d(x, kernel, bias, stride=2, padding=1, groups=runs).relu()
        x = x.unflatten(1, (runs, -1)).transpose(0, 1).flatten(2)
        return cross_entropy(torch.baddbmm(weights[5], x, weights[4]), per_run(batch[1], runs))


class Gru(Rows):
    """A recurrent layer of torch's ``nn.GRU`` that reads pictures of 14 x 14 pixels row by row, and a linear layer."""

    def __init__(self, data: Labelled, size: int, width: int = 32) -> None:
        super().__init__(data, size)
        self.width = width
        self.shapes = [(14, 3 * width), (width, 3 * width), (1, 3 * width), (1, 3 * width), (width, 10), (1, 10)]

    def start(self, generator: torch.Generator) -> list[Tensor]:
        return scaled_normal(self.shapes, generator, gain=1.0)

    def losses(self, weights: Sequence[Tensor], batch: Batch) -> Tensor:
        runs = len(weights[0])
        into, across, bias_into, bias_across, out, bias = weights
        rows = per_run(batch[0], runs).unflatten(-1, (14, 14)).unbind(2)
        state = rows[0].new_zeros(runs, rows[0].shape[1], self.width)
        for row in rows:
            x = torch.baddbmm(bias_into, row, into).split(self.width, -1)
            h = torch.baddbmm(bias_across, state, across).split(self.width, -1)
            reset, update = ((a + b).sigmoid() for a, b in zip(x[:2], h[:2], strict=True))
            state = torch.lerp((x[2] + reset * h[2]).tanh(), state, update)
        return cross_entropy(torch.baddbmm(bias, state, out), per_run(batch[1], runs))


class Quadratic(Task):
    """The noise-free quadratic sum(h x^2) / 2 with curvatures from 1 / condition to 1: the loss is log10(f / f_0)."""

    def __init__(self, size: int, condition: float) -> None:
        self.shapes = [(size,)]
        self.curvature = torch.logspace(0, -torch.tensor(condition).log10().item(), size)

    def start(self, generator: torch.Generator) -> list[Tensor]:
        return [torch.randn(self.shapes[0], generator=generator)]

    def draw(self, generator: torch.Generator, steps: int) -> Tensor:
        return torch.zeros(steps, 0)

    def batch(self, drawn: Tensor) -> Batch:
        return (drawn,)

    def losses(self, weights: Sequence[Tensor], batch: Batch) -> Tensor:
        return (weights[0].square() * self.curvature).sum(1) / 2

    def held_out(self) -> Batch:
        return (torch.zeros(1, 0),)

    def evaluate(self, weights: Sequence[Tensor]) -> Tensor:
        """Decades, above the smallest float32: starting values differ too little from seed to seed to be divided by."""
        return (super().evaluate(weights) / (self.curvature.sum() / 2)).clamp(min=1e-30).log10()


class Regression(Task):
    """Noisy linear regression with correlated inputs, rotated: the loss is the share that is left of the excess risk.

    A run sees each row once. Label noise dominates the gradient, and the inputs' variances spread over decades.
    """

    def __init__(self, size: int, inputs: int, power: float, noise: float) -> None:
        self.shapes, self.size, self.noise = [(inputs, 1)], size, noise
        variances = torch.arange(1, inputs + 1).float() ** -power
        rotation = torch.linalg.qr(torch.randn(inputs, inputs, generator=torch.Generator().manual_seed(0)))[0]
        self.root = variances.sqrt()[:, None] * rotation  # rows of the identity become rows with these variances
        self.target = self.root.T @ torch.randn(inputs, 1, generator=torch.Generator().manual_seed(1)) / sqrt(inputs)

    def start(self, generator: torch.Generator) -> list[Tensor]:
        return [torch.zeros(self.shapes[0])]

    def draw(self, generator: torch.Generator, steps: int) -> Tensor:
        return torch.randn(steps, self.size, self.shapes[0][0] + 1, generator=generator)

    def batch(self, drawn: Tensor) -> Batch:
        x = drawn[..., :-1] @ self.root
        return x, x @ self.target + self.noise * drawn[..., -1:]

    def losses(self, weights: Sequence[Tensor], batch: Batch) -> Tensor:
        x, y = (per_run(part, len(weights[0])) for part in batch)
        return (torch.bmm(x, weights[0]) - y).square().mean((1, 2)) / 2

    def held_out(self) -> Batch:
        return self.root[None], (self.root @ self.target)[None]

    def evaluate(self, weights: Sequence[Tensor]) -> Tensor:
        """Exact, as the covariance is known: (w - w*)' C (w - w*) over that of w = 0, where all runs start."""
        return super().evaluate(weights) / ((self.root @ self.target).square().mean() / 2)
