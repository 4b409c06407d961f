"""Optimizers for the tests of the fused CUDA kernel: their options, what they launch, and comparisons of several."""

from typing import Any

import torch
from torch import Tensor

import gap_hf

from .cuda import F32

OPTIONS = {
    "adam": (gap_hf.GapAdamW, {"betas": [(0.8, 0.999), (0.99, 0.99)]}),
    "adam-l2-reset": (
        gap_hf.Adam,
        {
            "betas": [(0.5, 0.999), (0.9, 0.999), (0.99, 0.999)],
            "weight_decay": 0.1,
            "hysteresis_threshold": 1,
            "second_order_momentum_reset_mode": "square",
        },
    ),
    "adam-gradient": (gap_hf.GapAdamW, {"betas": [(0.0, 0.999), (0.9, 0.99)], "hysteresis_threshold": 1}),
    "sgdm": (gap_hf.SGDM, {"momentum": [0.5, 0.9], "nesterov": True, "weight_decay": 0.01}),
    "sgdm-gradient": (gap_hf.SGDM, {"momentum": [0.0, 0.9], "dampening": 0.3, "hysteresis_threshold": 1}),
}
ON_A_GPU = OPTIONS | {
    "adams": (gap_hf.Adams, {"betas": [(0.5, 0.95), (0.95, 0.95)]}),
    "adai": (gap_hf.AdaiW, {"betas": [(0.02, 0.99), (0.5, 0.99)], "weight_decay": 0.01, "dampening": 0.5}),
    "rf_adamw": (gap_hf.RFAdamW, {"betas": [(0.8, 0.999), (0.99, 0.999)], "batch_size": 8}),
    "rf_rmsprop": (gap_hf.RFRMSprop, {"momentum": [0.5, 0.9], "batch_size": 8, "weight_decay": 0.01}),
}
TYPES: dict[str, dict[str, Any]] = {
    "switch": {"type": "switch"},
    "switch_parameter_wise": {"type": "switch_parameter_wise"},
    "mix": {"type": "mix", "weights": [0.3, 0.3, 0.4]},
    "mix-score": {"type": "mix", "weights": "score"},
    "mix_parameter_wise": {"type": "mix_parameter_wise"},
    "mix_parameter_wise-score": {"type": "mix_parameter_wise", "weights": "score"},
    "random": {"type": "random", "seed": 3},
    "random_parameter_wise": {"type": "random_parameter_wise", "seed": 3},
    "first": {"type": "first"},
}
CONSTANT = ("mix", "mix_parameter_wise")
"""Those without scores."""


def options_of(name: str, type_: str) -> tuple[Any, dict[str, Any]]:
    """The class and the options of one of ``ON_A_GPU`` with one of ``TYPES``."""
    cls, options = ON_A_GPU[name]
    chosen = dict(TYPES[type_])
    if isinstance(chosen.get("weights"), list):
        chosen["weights"] = chosen["weights"][: len(options.get("betas", options.get("momentum")))]
    return cls, {**options, **chosen}


def launches_of(type_: str, name: str = "") -> list[str]:
    """The kernels that a step launches."""
    rounds = {"adai": ["tick", "squares", "add_up"], "adams": ["tick", "left", "unit", "right", "lengths"]}.get(name)
    if rounds:
        return [*rounds, "move"] if type_ in CONSTANT else [*rounds, "observe", "add_up", "move"]
    if type_ in CONSTANT:
        return ["tick", "step_constant"]
    return ["tick", "observe", "add_up", "mix" if type_.startswith("mix") else "apply"]


def parameters(shapes: list[tuple[int, ...]], device: str, dtype: torch.dtype = F32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]


def gradients(shapes: list[tuple[int, ...]], t: int, dtype: torch.dtype = F32) -> list[Tensor]:
    """Noise around a mean that turns around every twenty steps."""
    generator = torch.Generator().manual_seed(1)
    mean = [torch.randn(shape, generator=generator) for shape in shapes]
    generator.manual_seed(1000 + t)
    size = 1.0 if t // 20 % 2 == 0 else -0.3
    return [(torch.randn(m.shape, generator=generator) * 0.5 + m * size).to(dtype) for m in mean]


def choices_of(optimizer: Any) -> list[Any]:
    return [group["last_choice"] for group in optimizer.param_groups]


def same_weights(optimizers: list[Any], rtol: float = 1e-4) -> None:
    """Mixes weigh the candidates alike."""
    for group, other in zip(*(optimizer.param_groups for optimizer in optimizers), strict=True):
        if "last_weights" in group:
            both = [torch.tensor(g["last_weights"], dtype=torch.float64) for g in (group, other)]
            torch.testing.assert_close(*both, rtol=rtol, atol=rtol)
