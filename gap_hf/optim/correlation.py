"""How much successive gradients agree, measured on a sample of elements of this process."""

import torch
from torch import Tensor

from ..sharding.part import Part

FRAGMENTS = 16
"""Fragments of each call of ``step`` that are looked at, spread evenly over the model."""

ELEMENTS = 4096
"""Elements of each of them, the first ones."""


class GradientCorrelation:
    """The cosine between the gradients of successive steps, as the optimizer gets them, averaged over parameters.

    It is measured only when somebody asks, costs a few small operations, and never waits for the device nor
    communicates: of sharded parameters it sees what this process holds.
    """

    def __init__(self) -> None:
        self.left = 0
        self.before: dict[tuple[int, int, int], Tensor] = {}
        self.now: dict[tuple[int, int, int], Tensor] = {}
        self.cosines: list[Tensor] = []

    def measure(self, steps: int) -> None:
        """Compare the gradients of the next ``steps`` steps with those of the steps before them."""
        self.left, self.cosines = steps + 1, []

    def look(self, parts: list[Part]) -> None:
        """Take in the gradients that one call of ``step`` was handed."""
        if not self.left or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
            return
        for k, part in enumerate(parts):
            moving = [i for i, grad in enumerate(part.grads) if grad is not None and grad.numel()]
            for i in moving[:: -(-len(moving) // FRAGMENTS) or 1]:
                gradient = part.grads[i]
                assert gradient is not None
                now = gradient.detach().reshape(-1)[:ELEMENTS].float().clone()
                key = k, part.g, part.rows[i]
                before = self.before.get(key)
                if before is not None and before.shape == now.shape:
                    self.cosines.append(torch.dot(before, now) / (before.norm() * now.norm()))
                self.now[key] = now

    def end_step(self) -> None:
        """Note that a step is over."""
        self.left = max(0, self.left - 1)
        # a parameter that had no gradient in this step has none to compare the next one with
        self.before, self.now = self.now if self.left else {}, {}

    def result(self) -> float | None:
        """Return the mean of what was measured since the last call, or None. This waits for the device."""
        cosines, self.cosines = self.cosines, []
        if not cosines:
            return None
        values = torch.stack([cosine.cpu() for cosine in cosines])
        finite = values[values.isfinite()]  # a gradient may be all zeros, or infinite
        return float(finite.mean()) if len(finite) else None
