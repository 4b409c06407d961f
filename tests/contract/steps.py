"""Parameters, training and comparison for the checks: tiny, seeded, and alike for every variant."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

SHAPES = ((4, 3), (5,), ())


def parameters(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Make random parameters of ``SHAPES``, or of the given shapes."""
    generator = torch.Generator().manual_seed(0)
    return [random(shape, generator).to(dtype).requires_grad_() for shape in shapes or SHAPES]


def random(shape: Any, generator: torch.Generator) -> Tensor:
    """Draw normal numbers, in float32 whatever the default dtype is."""
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def copies(params: list[Tensor]) -> list[Tensor]:
    """Put the same values into new parameters."""
    return [p.detach().clone().requires_grad_() for p in params]


def trained(optimizer: Optimizer) -> list[Tensor]:
    """List the parameters of all groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def values(params: list[Tensor]) -> list[Tensor]:
    """Copy what the parameters hold now."""
    return [p.detach().clone() for p in params]


def train(optimizer: Optimizer, steps: int = 3, seed: int = 0) -> list[Tensor]:
    """Take steps on noisy gradients, and return where they lead."""
    params, generator = trained(optimizer), torch.Generator().manual_seed(seed)
    means = [random(p.shape, generator) for p in params]
    for _ in range(steps):
        for p, mean in zip(params, means, strict=True):
            noise = random(p.shape, generator)
            if p.requires_grad:
                p.grad = (mean + 0.5 * noise).to(p.dtype)
        optimizer.step()
    return values(params)


def mlp() -> torch.nn.Module:
    """Make a network of four parameters, always the same."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


def error(model: torch.nn.Module) -> Tensor:
    """Compute the model's squared error on eight examples."""
    x = random((8, 3), torch.Generator().manual_seed(1))
    return (model(x) - x.sum(dim=1, keepdim=True)).square().mean()


def same(a: Any, b: Any, exact: bool = True, at: str = "") -> None:
    """Assert that two nested results are equal: bit for bit, or but for rounding."""
    if isinstance(a, Tensor):
        tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {}
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance, msg=lambda text: f"{at}: {text}")
    elif isinstance(a, Mapping):
        assert list(a) == list(b), at
        for key in a:
            same(a[key], b[key], exact, f"{at}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), at
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, exact, f"{at}[{i}]")
    else:
        assert a == b, at
