"""Bad gradients: which there are, which rank hands them in, and what arrives at the optimizer."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sharding.layouts import DDP, FSDP2TensorParallel, Given, Wrapped

VALUES = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "huge": 1e15,
    "overflow": 1e30,
    "tiny": 1e-42,
}
KINDS = (*VALUES, "zero", "missing")
WHERE = ("element", "parameter", "block", "all")

Row = list[Tensor | None]


@dataclass(frozen=True)
class Fault:
    """One bad step.

    Attributes:
        kind: a key of ``VALUES``, ``'zero'`` or ``'missing'``.
        parameters: which ones have it.
        element: the only element that has it, as a share of the parameter; None for all.
        ranks: which of them hand it in.
    """

    kind: str
    parameters: frozenset[int]
    element: float | None
    ranks: frozenset[int]

    def __str__(self) -> str:
        place = "" if self.element is None else f" in the element at {self.element:.2f}"
        return f"{self.kind}{place} of parameters {sorted(self.parameters)} on ranks {sorted(self.ranks)}"

    def of(self, row: Row) -> Row:
        """``row`` with the fault in it."""
        return [self.spoil(g) if i in self.parameters else g for i, g in enumerate(row)]

    def spoil(self, gradient: Tensor | None) -> Tensor | None:
        if gradient is None or self.kind == "missing":
            return None
        value = torch.tensor(VALUES.get(self.kind, 0.0)).to(gradient)  # too large a one becomes infinite
        if self.element is None:
            return value.expand_as(gradient).clone()
        spoiled = gradient.clone()
        spoiled.view(-1)[int(self.element * gradient.numel())] = value
        return spoiled


def draw(rng: random.Random, wrapped: Wrapped, blocks: list[list[Tensor]], world: int) -> Fault:
    """A fault that the backend of ``wrapped`` puts up with from torch's own optimizers, too."""
    kind, where = rng.choice(KINDS), rng.choice(WHERE)
    starts = [sum(map(len, blocks[:b])) for b in range(len(blocks) + 1)]
    everything = frozenset(range(starts[-1]))
    b = rng.randrange(len(blocks))
    parameters = {
        "element": frozenset([rng.choice(sorted(everything))]),
        "parameter": frozenset([rng.choice(sorted(everything))]),
        "block": frozenset(range(starts[b], starts[b + 1])),
        "all": everything,
    }[where]
    one_rank = rng.random() < 0.5 and not isinstance(wrapped, Given)  # whose ranks are handed the same thing by design
    if kind == "missing":
        one_rank &= isinstance(wrapped, DDP)  # elsewhere ranks that go through other layers wait for each other
        if parameters == everything and not isinstance(wrapped, Given):  # there is no loss to go back from
            parameters -= {0}
    ranks = frozenset(range(world))
    if one_rank:
        r = rng.randrange(world)
        # the ranks of a tensor-parallel pair have one gradient between them
        ranks = frozenset([r - r % 2, r - r % 2 + 1] if isinstance(wrapped, FSDP2TensorParallel) else [r])
    element = rng.random() if where == "element" and kind not in ("missing", "zero") else None
    return Fault(kind, parameters, element, ranks)


def averaged(row: Row, fault: Fault | None, world: int) -> Row:
    """What data parallelism makes of ``row`` with ``fault`` on some ranks."""
    if fault is None:
        return row
    spoiled, bad = fault.of(row), len(fault.ranks)
    if bad == world:
        return spoiled
    found: Row = []
    for good, wrong in zip(row, spoiled, strict=True):
        if good is None:
            found.append(None)
        else:
            found.append((good * (world - bad) + (torch.zeros_like(good) if wrong is None else wrong * bad)) / world)
    return found
