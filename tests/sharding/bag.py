"""A model whose gradients are what the test says, under any backend, and the options that each layout is tried with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

import gap_hf
from gap_hf.optim.reference.adai import ReferenceAdai
from gap_hf.optim.reference.adam import ReferenceAdam
from gap_hf.optim.reference.adams import ReferenceAdams
from gap_hf.optim.reference.if_shampoo import ReferenceIFShampoo
from gap_hf.optim.reference.over import ReferenceOver
from gap_hf.optim.reference.rf_adamw import ReferenceRFAdamW
from gap_hf.optim.reference.rf_rmsprop import ReferenceRFRMSprop
from gap_hf.optim.reference.sgdm import ReferenceSGDM

SHAPES = [[(6, 5), (5,)], [(4, 3), (1,)], [(7, 2, 3), (2,)], [(3, 1)]]
"""Block by block. Uneven on 2 and 4 ranks, and smaller than the number of ranks."""


def groups(params: list[Tensor]) -> list[dict[str, Any]]:
    """Decay for matrices only, as Trainer does, and another learning rate for the rest, as LoRA+ does."""
    matrices = [p for i, p in enumerate(params) if is_matrix(i)]
    others = [p for i, p in enumerate(params) if not is_matrix(i)]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0, "lr": 0.02}]


def is_matrix(index: int) -> bool:
    """Whether parameter ``index`` of the bag has more than one dimension (backends may flatten it)."""
    return index % 2 == 0


class Case(NamedTuple):
    """An optimizer, its reference twin, the options of both, and how many steps it takes to see that they agree."""

    optimizer: type
    reference: type
    options: dict[str, Any]
    groups: Callable[[list[Tensor]], list[dict[str, Any]]] = groups
    steps: int = 50

    def is_constant(self) -> bool:
        """Whether the choice is the same at every step."""
        type_ = self.options.get("type", "default")
        return type_ in ("default", "first") or (type_ == "mix" and self.options.get("weights") != "score")


SWITCH = {"type": "switch", "hysteresis_threshold": 1}
WISE = {"type": "switch_parameter_wise", "hysteresis_threshold": 2}
CASES: dict[str, Case] = {
    "adamw-switch": Case(
        gap_hf.GapAdamW,
        ReferenceAdam,
        {**SWITCH, "betas": [(0.5, 0.99), (0.9, 0.99), (0.99, 0.99)], "J_ema": 0.5},
    ),
    "adamw-wise": Case(gap_hf.GapAdamW, ReferenceAdam, {**WISE, "betas": [(0.8, 0.999), (0.99, 0.999)]}),
    "adam-wise-two-beta2": Case(
        gap_hf.Adam,
        ReferenceAdam,
        {
            **WISE,
            "betas": [(0.5, 0.99), (0.9, 0.999), (0.99, 0.99)],
            "lr_modulation": True,
            "second_order_momentum_reset_mode": "square",
        },
    ),
    "sgdm-switch": Case(
        gap_hf.SGDM,
        ReferenceSGDM,
        {**SWITCH, "momentum": [0.5, 0.9, 0.99], "lr_modulation": True, "dampening": 0.1},
    ),
    "sgdm-wise": Case(gap_hf.SGDM, ReferenceSGDM, {**WISE, "momentum": [0.9, 0.5], "nesterov": True}),
    # rounded stochastically, and still the same bits as on whole parameters: the noise comes from the elements
    "adamw-bf16-state": Case(
        gap_hf.GapAdamW,
        gap_hf.GapAdamW,
        {**WISE, "betas": [(0.8, 0.999), (0.99, 0.999)], "state_dtype": "bfloat16"},
    ),
    "adamw-8bit-state": Case(
        gap_hf.GapAdamW,
        gap_hf.GapAdamW,
        {**WISE, "betas": [(0.8, 0.999), (0.99, 0.999)], "state_dtype": "8bit"},
        steps=26,
    ),
    # the gradient itself is one of the candidates, and has no buffer
    "adamw-mix": Case(gap_hf.GapAdamW, ReferenceAdam, {"type": "mix", "betas": [(0.0, 0.99), (0.9, 0.99)]}, steps=26),
    "adamw-mix-score": Case(
        gap_hf.GapAdamW,
        ReferenceAdam,
        {**SWITCH, "type": "mix", "weights": "score", "betas": [(0.0, 0.99), (0.9, 0.99), (0.99, 0.999)], "J_ema": 0.5},
        steps=26,
    ),
    "sgdm-mix-wise": Case(
        gap_hf.SGDM,
        ReferenceSGDM,
        {**WISE, "type": "mix_parameter_wise", "weights": "score", "momentum": [0.0, 0.9, 0.99], "dampening": 0.1},
        steps=26,
    ),
    "adamw-random": Case(
        gap_hf.GapAdamW,
        ReferenceAdam,
        {**SWITCH, "type": "random", "betas": [(0.5, 0.99), (0.9, 0.99), (0.99, 0.99)], "seed": 5},
        steps=26,
    ),
    "sgdm-random-wise": Case(
        gap_hf.SGDM,
        ReferenceSGDM,
        {**WISE, "type": "random_parameter_wise", "momentum": [0.5, 0.9], "lr_modulation": "dc"},
        steps=26,
    ),
    "adamw-first": Case(
        gap_hf.GapAdamW, ReferenceAdam, {**SWITCH, "type": "first", "betas": [(0.9, 0.99), (0.5, 0.99)]}, steps=26
    ),
    "adai": Case(gap_hf.Adai, ReferenceAdai, {}),
    "adai-wise": Case(
        gap_hf.Adai,
        ReferenceAdai,
        {**WISE, "betas": [(0.02, 0.9), (0.5, 0.9)], "weight_decay": 0.1, "decoupled_weight_decay": True},
        steps=26,
    ),
    "adams-wise": Case(
        gap_hf.Adams,
        ReferenceAdams,
        {**WISE, "betas": [(0.5, 0.9), (0.95, 0.9)], "scalar_vector_weight_decay": 0.2},
        steps=26,
    ),
    "rf_adamw-wise": Case(
        gap_hf.RFAdamW,
        ReferenceRFAdamW,
        {**WISE, "betas": [(0.8, 0.9), (0.99, 0.9)], "batch_size": 4.0, "eps": 1e-2},
        steps=26,
    ),
    "rf_rmsprop-switch": Case(
        gap_hf.RFRMSprop,
        ReferenceRFRMSprop,
        {**SWITCH, "momentum": [0.0, 0.9, 0.99], "alpha": 0.9, "batch_size": 4.0, "eps": 1e-2},
        steps=26,
    ),
    "if_shampoo-switch": Case(
        gap_hf.IFShampoo,
        ReferenceIFShampoo,
        {**SWITCH, "momentum": [0.0, 0.9, 0.99], "batch_size": 4.0, "beta2": 0.05, "update_interval": 2, "max_axis": 5},
        steps=26,
    ),
    "over-wise": Case(
        gap_hf.GapOver,
        ReferenceOver,
        {
            "type": "switch_parameter_wise",
            "candidates": "torch.optim.AdamW/weight_decay/0.1:torch.optim.NAdam:"
            "pytorch_optimizer.AdEMAMix:torch.optim.SGD/lr_scale/10/momentum/0.9",
        },
        steps=26,
    ),
    "adamw-default": Case(gap_hf.GapAdamW, torch.optim.AdamW, {"type": "default", "betas": (0.9, 0.99)}),
}


class Block(nn.Module):
    """Parameters, and a loss whose gradient is given."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(t.clone()) for t in tensors)

    def forward(self, grads: list[Tensor | None]) -> Tensor:
        terms = [product(p, g) for p, g in zip(self.weights, grads, strict=True) if g is not None]
        return sum(terms, torch.zeros((), dtype=self.weights[0].dtype))


def product(p: Tensor, grad: Tensor) -> Tensor:
    """A term of the loss, of which ``grad`` is the gradient in ``p``."""
    if isinstance(p, DTensor):
        return (p * distribute_tensor(grad, p.device_mesh, p.placements)).sum().full_tensor()
    return (p * grad.to(p)).sum()


class Bag(nn.Module):
    """Blocks of parameters. ``forward(grads)`` is a loss with exactly these gradients."""

    def __init__(self, tensors: list[list[Tensor]]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(block) for block in tensors)

    def forward(self, grads: list[Tensor | None]) -> Tensor:
        rest, losses = list(grads), []
        for block in self.blocks:
            n = len(block.weights) if isinstance(block, Block) else len(block.module.weights)
            losses.append(block(rest[:n]))
            rest = rest[n:]
        return torch.stack(losses).sum()


def tensors(seed: int = 0, shapes: list[list[tuple[int, ...]]] | None = None) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(s, generator=generator) for s in block] for block in shapes or SHAPES]


def gradients(flat: list[Tensor], steps: int, seed: int = 1) -> list[list[Tensor | None]]:
    """``steps`` times one gradient per parameter: noise around a mean that turns around every 15 steps.

    The fourth parameter has none on every third step, and the third block none on every fifth.
    """
    generator = torch.Generator().manual_seed(seed)
    mean = [torch.randn(p.shape, generator=generator) for p in flat]
    found: list[list[Tensor | None]] = []
    for t in range(steps):
        size = 1.0 if t // 15 % 2 == 0 else -0.4
        row: list[Tensor | None] = [torch.randn(m.shape, generator=generator) * 0.5 + m * size for m in mean]
        missing = {3: t % 3 == 2, 4: t % 5 == 4, 5: t % 5 == 4}
        found.append([None if missing.get(i) else g for i, g in enumerate(row)])
    return found


def build(case: Case, params: list[Tensor]) -> torch.optim.Optimizer:
    return case.optimizer(case.groups(params), lr=0.01, **case.options)


class Oracle:
    """The reference twin on whole parameters, in this process alone.

    ``and_alone``: beside it our own optimizer, whose buffers have the names that can be compared.
    """

    def __init__(self, case: Case, flat: list[Tensor], and_alone: bool = False) -> None:
        self.params = [p.detach().clone().float().requires_grad_() for p in flat]
        options = dict(case.options)
        if case.reference is torch.optim.AdamW:
            del options["type"]
        elif case.optimizer is gap_hf.GapAdamW:
            options["decoupled_weight_decay"] = True
        self.optimizer = case.reference(case.groups(self.params), lr=0.01, **options)

        self.pairs: list[tuple[Any, torch.optim.Optimizer]] = [(self.params, self.optimizer)]
        if and_alone:
            self.bag = Bag([[p.detach() for p in self.params]])
            self.alone = build(case, list(self.bag.parameters()))
            self.pairs.append((list(self.bag.parameters()), self.alone))

    def step(self, grads: list[Tensor | None]) -> None:
        for params, optimizer in self.pairs:
            for p, g in zip(params, grads, strict=True):
                p.grad = None if g is None else g.float().clone()
            optimizer.step()

    def choices(self) -> list[Any]:
        return [group.get("last_choice", 0) for group in self.optimizer.param_groups]

    def weights_are_off_by(self, groups: list[dict[str, Any]]) -> float:
        """How far the weights of a mix in ``groups`` are from the twin's; 0 if nothing is mixed."""
        off = 0.0
        for mine, group in zip(groups, self.optimizer.param_groups, strict=True):
            if "last_weights" in mine and mine["count"]:
                both = torch.tensor(mine["last_weights"]), torch.tensor(group["last_weights"])
                off = max(off, float((both[0] - both[1]).abs().max()))
        return off
