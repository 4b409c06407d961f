"""What torch.compile would make of the portable kernels' operations: python -m tests.scripts.compiled_foreach

The passes of Adam with two candidates, written for one tensor of any size in the operations that the loop does, as they
are and compiled by torch.compile, on the 448 tensors of Llama-8B's LoRA; beside the foreach and the fused kernel in the
same process. Times are wall-clock milliseconds of a step, medians; each contender has its turn in every round.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import gap_hf
from gap_hf.bench.workloads import WORKLOADS

ROUNDS = 15
BETAS, BETA2, EPS, LR, DECAY = (0.8, 0.99), 0.999, 1e-8, 1e-3, 1e-2


def observe(grad: Tensor, first: list[Tensor], second: Tensor, correction: Tensor) -> Tensor:
    """Update the moments, and return the sums that scores are made of."""
    second.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
    r = 1 / (second.sqrt() / correction + EPS)
    for moment, beta1 in zip(first, BETAS, strict=True):
        moment.lerp_(grad, 1 - beta1)
    return torch.stack([*((r * grad * moment).sum() for moment in first), r.sum()])


def apply(value: Tensor, moment: Tensor, second: Tensor, correction: Tensor, step_size: Tensor) -> None:
    """Step by one candidate."""
    value.mul_(1 - LR * DECAY).sub_(step_size * moment / (second.sqrt() / correction + EPS))


class Plain:
    """A step in these two passes.

    Args:
        wrap: what is done with each of the passes beforehand.
    """

    def __init__(self, values: list[Tensor], wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self.values, self.t = values, 0
        self.first = [[torch.zeros_like(value) for _ in BETAS] for value in values]
        self.second = [torch.zeros_like(value) for value in values]
        self.observe, self.apply = wrap(observe), wrap(apply)

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        correction = torch.tensor((1 - BETA2**self.t) ** 0.5)
        sums = torch.stack(
            [
                self.observe(value.grad.view(-1), [m.view(-1) for m in first], second.view(-1), correction)
                for value, first, second in zip(self.values, self.first, self.second, strict=True)
                if value.grad is not None
            ]
        )
        gains = [(1 - beta1**2) ** 0.5 / (1 - beta1) for beta1 in BETAS]
        dots = sums[:, :-1] * torch.tensor(gains) / sums[:, -1:].sqrt()
        j = int(dots.sum(dim=0).argmax())
        step_size = torch.tensor(LR / (1 - BETAS[j] ** self.t))
        for value, first, second in zip(self.values, self.first, self.second, strict=True):
            self.apply(value.detach().view(-1), first[j].view(-1), second.view(-1), correction, step_size)


def milliseconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Measure, and print a line for each."""
    torch.manual_seed(0)
    values = [torch.randn(shape).requires_grad_() for shape in WORKLOADS["llama"].shapes]
    betas = [(beta1, BETA2) for beta1 in BETAS]
    contenders: dict[str, Callable[[], object]] = {
        "torch's AdamW, fused": torch.optim.AdamW(values, lr=LR, fused=True).step,
        "gap_hf, fused": gap_hf.GapAdamW(values, lr=LR, betas=betas, type="switch", fused=True).step,
        "gap_hf, foreach": gap_hf.GapAdamW(values, lr=LR, betas=betas, type="switch", foreach=True).step,
        "two passes, as they are": Plain(values, lambda function: function).step,
        "two passes, compiled": Plain(values, lambda function: torch.compile(function, dynamic=True)).step,
    }
    for value in values:
        value.grad = 0.01 * torch.randn_like(value)
    first = {name: milliseconds(step) for name, step in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, step in contenders.items():
            times[name].append(milliseconds(step))
    for name, found in times.items():
        print(f"{name:24} {statistics.median(found):7.1f} ms, the first step {first[name] / 1e3:.1f} s")


if __name__ == "__main__":
    main()
