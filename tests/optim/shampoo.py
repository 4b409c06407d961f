"""Options, gradients and runs for the tests of inverse-free Shampoo."""

import torch

B = 16
KERNELS = {"foreach": {"foreach": True}, "loop": {"foreach": False}}
SHAPES = [(7, 5), (30,), (), (2, 3, 4), (6, 1, 3), (0, 3)]
FAST = {"beta2": 0.05, "alpha2": 0.8, "damping": 0.1}
CASES = {
    "default": {"type": "default", "momentum": 0.9},
    "default-plain": {"type": "default", "momentum": 0.0, "maximize": True, "weight_decay": 0.1},
    "switch": {"type": "switch", "momentum": [0.0, 0.9, 0.99], "J_ema": 0.5},
    "switch-each": {"type": "switch_parameter_wise", "momentum": [0.5, 0.9], "lr_modulation": True, **FAST},
    "switch-maximize": {"type": "switch", "momentum": [0.9, 0.5], "maximize": True, "weight_decay": 0.1},
    "interval": {"type": "switch", "momentum": [0.5, 0.9, 0.99], "update_interval": 3, **FAST},
    "diagonal": {"type": "switch_parameter_wise", "momentum": [0.0, 0.9], "max_axis": 1, "hysteresis_threshold": 2},
    "capped": {"type": "switch", "momentum": [0.0, 0.9, 0.99], "max_axis": 5, "weight_decay": 0.1, **FAST},
    "undamped": {"type": "switch", "momentum": [0.5, 0.9], "damping": 0.0},
    "mix": {"type": "mix", "momentum": [0.0, 0.9, 0.99], "weights": (0.3, 0.6, 0.1)},
    "mix-score": {"type": "mix", "momentum": [0.0, 0.9, 0.99], "weights": "score", "J_ema": 0.5},
    "mix-each": {"type": "mix_parameter_wise", "momentum": [0.0, 0.9], "weights": "score", **FAST},
    "random": {"type": "random", "momentum": [0.5, 0.9, 0.99], "seed": 3},
}


def parameters(dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def gradients(ps, steps, scale=1.0):
    """Noise around a mean that turns around now and then."""
    generator = torch.Generator().manual_seed(1)
    for t in range(steps):
        mean = (-1) ** (t // 12)
        yield [(scale * (torch.randn(p.shape, generator=generator) + mean)).to(p.dtype) for p in ps]


def run(optimizer, ps, first, last):
    """Take the steps from ``first`` to ``last``; the second parameter has no gradient on every third."""
    for t, grads in enumerate(gradients(ps, last)):
        if t >= first:
            for i, (p, g) in enumerate(zip(ps, grads, strict=True)):
                p.grad = None if i == 1 and t % 3 == 2 else g
            optimizer.step()


def state_of(optimizer):
    return {(i, name): value for i, s in optimizer.state_dict()["state"].items() for name, value in s.items()}


# ---------------------------------------------------------------- the same as others
