r"""The scores by which proposals are compared. With a gradient \(g\) and candidate j's step \(d_j\), see each class."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .leaves import build, step_of
from .spec import Spec

STEPS = 1024
"""Of a candidate whose size is measured, and as many elements; a power of 2. Filters of up to 0.99 are full by then."""
LR = 1e-3


class Score(ABC):
    """A way to compare the candidates' steps, parameter by parameter.

    Attributes:
        keeps: whether it needs the steps that were proposed last.
        by_element: whether it takes only candidates that work element by element.
    """

    keeps: ClassVar[bool] = False
    by_element: ClassVar[bool] = False

    @abstractmethod
    def sums(self, K: int) -> int:
        """Return how many sums a parameter has."""

    @abstractmethod
    def observe(self, g: Tensor, steps: Sequence[Tensor], last: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums over a fragment.

        Args:
            g: its gradient, in float32, or float64 for float64 parameters.
            steps: the K candidates' steps, likewise.
            last: those that were proposed last, if they are kept, in float32.

        Returns:
            0-dim, float64.
        """

    @abstractmethod
    def scores(self, specs: Sequence[Spec], lr: float | Tensor, sums: Tensor, numel: Tensor) -> Tensor:
        """Return the scores ``(P, K)``, float64: not finite where a gradient is not, 0 where there is nothing.

        Args:
            specs: the candidates.
            lr: the group's learning rate.
            sums: ``(P, sums)`` of whole parameters.
            numel: ``(P,)``, their sizes.
        """


def product(some: Tensor, others: Tensor) -> Tensor:
    """Return the sum of the products of elements, which is taken in float64."""
    return (some * others).sum(dtype=torch.float64)


class RMS(Score):
    r"""The alignment at steps of the same root mean square, \(\sqrt n \sum g d_j / \lVert d_j \rVert\)."""

    def sums(self, K: int) -> int:
        return 2 * K

    def observe(self, g: Tensor, steps: Sequence[Tensor], last: Sequence[Tensor]) -> list[Tensor]:
        return [value for d in steps for value in (product(d, g), product(d, d))]

    def scores(self, specs: Sequence[Spec], lr: float | Tensor, sums: Tensor, numel: Tensor) -> Tensor:
        lengths = sums[:, 1::2].sqrt()
        return torch.where(lengths == 0, 0.0, sums[:, 0::2] / lengths * numel.sqrt().unsqueeze(1))


class Decrease(Score):
    r"""The first-order decrease of the loss by the step as it is, \(\sum g d_j\)."""

    def sums(self, K: int) -> int:
        return K

    def observe(self, g: Tensor, steps: Sequence[Tensor], last: Sequence[Tensor]) -> list[Tensor]:
        return [product(d, g) for d in steps]

    def scores(self, specs: Sequence[Spec], lr: float | Tensor, sums: Tensor, numel: Tensor) -> Tensor:
        return sums


class Next(Decrease):
    r"""The decrease that the step proposed last would make now, \(\sum g_t\, d_{j,t-1}\).

    This gradient is of other data, so a candidate gains nothing by following the last one's noise; and it is taken
    where the last step led, so a direction that was overshot counts against those who still go there.
    """

    keeps = True

    def observe(self, g: Tensor, steps: Sequence[Tensor], last: Sequence[Tensor]) -> list[Tensor]:
        return [product(d, g) for d in last]


class Gap(Score):
    r"""GAP's: the alignment at steps of the size that gradients without structure would give them.

    \[J_j = \sum g\, d_j \,/\, (\eta_j\, \rho_j\, \sigma^{e_j - \min e})\]

    with the candidate's learning rate \(\eta_j\), the size and exponent of ``size``, and the root mean square
    \(\sigma\) of the gradient. For SGD's momenta this is GAP's score; for Adam's too, once the filters are full,
    up to a factor that all candidates of a parameter share.
    """

    by_element = True

    def sums(self, K: int) -> int:
        return K + 1

    def observe(self, g: Tensor, steps: Sequence[Tensor], last: Sequence[Tensor]) -> list[Tensor]:
        return [*(product(d, g) for d in steps), product(g, g)]

    def scores(self, specs: Sequence[Spec], lr: float | Tensor, sums: Tensor, numel: Tensor) -> Tensor:
        def of(numbers: list[float]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.float64, device=sums.device)

        sizes = [size(spec) for spec in specs]
        least = min(found.exponent for found in sizes)
        sigma = (sums[:, -1:] / numel.clamp(min=1).unsqueeze(1)).sqrt() ** of(
            [found.exponent - least for found in sizes]
        )
        unit = sigma * of([found.size * spec.lr_scale for found, spec in zip(sizes, specs, strict=True)]) * lr
        return torch.where(unit == 0, 0.0, sums[:, :-1] / unit)


SCORES: dict[str, Score] = {"rms": RMS(), "decrease": Decrease(), "next": Next(), "gap": Gap()}


class Size(NamedTuple):
    """How large a candidate's steps are at learning rate 1 for gradients without structure.

    Attributes:
        size: their root mean square for gradients of root mean square 1.
        exponent: the power of the gradients' size that it grows with: 1 for SGD, 0 for Adam.
    """

    size: float
    exponent: float


@lru_cache(maxsize=256)
def size(spec: Spec) -> Size:
    r"""Measure a candidate that works element by element.

    The gradients are the rows of a Hadamard matrix in random order: of size 1, and exactly uncorrelated, so that the
    size of a filter's output is exactly its norm, \(\sqrt{(1-\beta)/(1+\beta)}\) for Adam's first moment.
    """
    rows = torch.ones(1, 1)
    while len(rows) < STEPS:
        rows = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), rows)
    rows = rows[torch.randperm(STEPS, generator=torch.Generator().manual_seed(0))]
    once, twice = (measured(spec, rows * factor) for factor in (1, 2))
    return Size(once, round(float(torch.tensor(twice / once).log2()), 3))


def measured(spec: Spec, gradients: Tensor) -> float:
    """Return the root mean square of the last steps that ``gradients`` lead to, at learning rate 1."""
    squares: list[Any] = []
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        p = torch.zeros(gradients.shape[1]).requires_grad_()
        optimizer = build(spec, [{"params": [p], "lr": LR}])
        for gradient in gradients:
            p.data.zero_()
            p.grad = gradient.clone()
            step_of(optimizer)
            squares.append(p.detach().double().square().mean())
    return float(torch.stack(squares[-STEPS // 16 :]).mean().sqrt()) / LR
