"""What a step costs the host with tiny tensors: microseconds of CPU time on one thread, medians.

    python -m tests.scripts.host_time

Gradients are new tensors at each step, as after a backward pass.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch.optim import Optimizer

import gap_hf

SHAPE = (16, 16)
MAKERS: dict[str, Callable[[list[torch.Tensor]], Optimizer]] = {
    "torch.optim.AdamW(fused=True)": lambda ps: torch.optim.AdamW(ps, lr=1e-3, fused=True),
    "GapAdamW, switch": lambda ps: gap_hf.GapAdamW(ps, lr=1e-3, type="switch"),
    "GapAdamW, switch_parameter_wise": lambda ps: gap_hf.GapAdamW(ps, lr=1e-3, type="switch_parameter_wise"),
}


def microseconds(n: int, make: Callable[[list[torch.Tensor]], Optimizer], steps: int, scheduled: bool) -> float:
    """The median CPU time of a step with ``n`` tensors; ``scheduled``: with another learning rate at each step."""
    generator = torch.Generator().manual_seed(0)
    ps = [torch.randn(SHAPE, generator=generator).requires_grad_() for _ in range(n)]
    grads = [0.01 * torch.randn(SHAPE, generator=generator) for _ in range(n)]
    optimizer, times = make(ps), []
    for t in range(steps):
        for p, grad in zip(ps, grads, strict=True):
            p.grad = grad.clone()
        if scheduled:
            optimizer.param_groups[0]["lr"] = 1e-3 * (1 + t / steps)
        begin = time.thread_time()
        optimizer.step()
        times.append(time.thread_time() - begin)
    return 1e6 * statistics.median(times[steps // 4 :])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for n, steps in ((1, 3000), (4000, 40)):
        for name, make in MAKERS.items():
            fixed, moving = (microseconds(n, make, steps, scheduled) for scheduled in (False, True))
            print(f"{n:5} tensors  {name:32} {fixed:9.0f} us  {moving:9.0f} us with a learning rate that changes")
