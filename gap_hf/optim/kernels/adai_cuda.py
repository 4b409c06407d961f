"""Adai's fused CUDA kernels: how ``triton_adai.py`` is told what to do."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..uploads import constant
from ..work import Work
from .fused_cuda import logarithms
from .rounds import RoundsOnCUDA


class AdaiOnCUDA(RoundsOnCUDA):
    """The kernel on CUDA; its buffers are K first moments, K products and a second moment, all in float32.

    Where no scores are wanted, ``observe`` leaves the second round to ``apply`` or ``mix``, which need one pass for
    both.
    """

    module: ClassVar[str] = "triton_adai"

    def numbers(self, numbers: Any) -> np.ndarray:
        table = [*numbers.beta0, *numbers.modulation, numbers.beta2, *logarithms((numbers.beta2,))]
        return np.array(table, dtype=np.float64)

    def told(self, numbers: Any) -> dict[str, tuple[list[float], dict[str, Any]]]:
        inertia = [float(numbers.l2), float(numbers.eps), float(numbers.dampening)]
        dampened = {"DAMPENED": numbers.dampening == 1}
        return {
            "squares": (inertia[:1], {}),
            "observe": (inertia, dampened),
            "move": ([*inertia, float(numbers.decay), float(numbers.soft_reset)], dampened),
        }

    def observe(self, work: Work, answers: list[Tensor]) -> Tensor:
        tables, n, device = self.prepared(work), len(work.values), work.values[0].device
        blocks = tables.n_blocks
        if not answers:
            partial = torch.empty(1, blocks, dtype=torch.float64, device=device)
            self.run(work, self.module, "squares", partial, n)
            numel = constant(tuple(self.known().numel.tolist()), torch.float64, device)
            return torch.cat([self.added_up(work, partial), numel.unsqueeze(1)], dim=1)
        if not work.scored:
            return torch.zeros(n, 0, dtype=torch.float64, device=device)
        partial = torch.empty(self.family.sums(work.numbers), blocks, dtype=torch.float32, device=device)
        self.run(work, self.module, "observe", partial, answers[0], n, blocks)
        return self.added_up(work, partial)

    def mix(self, work: Work, answers: list[Tensor], weights: Tensor, resets: Tensor) -> None:
        lr, constants = self.learning_rate(work)
        decisions = weights, *weights.stride(), resets, resets.stride(0), lr, answers[0]
        constants["UPDATE"] = not work.scored
        self.run(work, self.module, "move", *decisions, len(work.values), **constants)
        increment_version(work.values)
