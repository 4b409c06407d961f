"""The bag under DeepSpeed's real engine: ZeRO 0 to 3 in fp32, bf16 and fp16, with its main options."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import safe_get_full_fp32_param
from packaging.version import Version
from torch import Tensor

from gap_hf.sharding.deepspeed import SCALES_ONLY_FP16, installed

from .bag import Bag, Case, build, is_matrix
from .layouts import Wrapped

GATHERS_INTO_VIEWS = Version("0.18.7") <= installed() < Version("0.19")
"""Whether no optimizer, torch's included, can step in ZeRO 1 and 2 with torch 2.13's gloo: it gathers into views."""


READS_TOO_EARLY = installed() < Version("0.19.8")
"""Whether ``GatheredParameters`` on CPUs now and then gives a rank what was there before the gathering, with torch's
AdamW, too: 3 of 240 readings under 0.19.0, 2 under 0.18.9, none under 0.19.8."""


def together(p: Any) -> Tensor:
    """Put the pieces of a parameter of ZeRO 3 together."""
    piece = p.ds_tensor.detach().clone()
    pieces = [torch.empty_like(piece) for _ in range(dist.get_world_size(p.ds_process_group))]
    dist.all_gather(pieces, piece, group=p.ds_process_group)
    return torch.cat(pieces)[: p.ds_numel].view(p.ds_shape)


class Zero(Wrapped):
    """One ZeRO configuration."""

    def __init__(
        self,
        case: Case,
        tensors: list[list[Tensor]],
        stage: int = 0,
        dtype: torch.dtype = torch.float32,
        micro_steps: int = 1,
        clip: float = 0.0,
        **zero: Any,
    ) -> None:
        self.dtype, self.micro_steps, self.stage, self.clip = dtype, micro_steps, stage, clip
        self.skips_infinite = dtype == torch.float16
        self.fills_in_zeros = "last" if stage == 3 or "offload_optimizer" in zero else "all"
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": micro_steps,
            "gradient_clipping": clip,
            "zero_optimization": {"stage": stage, **zero},
            "steps_per_print": 10**9,
        }
        config |= zero.pop("top", {})
        config["zero_optimization"].pop("top", None)
        if dtype == torch.bfloat16:
            config["bf16"] = {"enabled": True}
        if dtype == torch.float16:
            allow_float16()
            config["fp16"] = {"enabled": True, "initial_scale_power": 4, "hysteresis": 1}
        if "offload_optimizer" in zero:
            config["zero_force_ds_cpu_optimizer"] = False
        bag = Bag(tensors).to(dtype)
        self.optimizer = build(case, list(bag.parameters()))
        self.model, *_ = deepspeed.initialize(model=bag, optimizer=self.optimizer, config=config)

    def step(self, grads: list[Tensor | None]) -> None:
        for i in range(self.micro_steps):
            # they average to the gradient: (g/2 + 3g/2) / 2
            share = (2 * i + 1) / self.micro_steps
            self.model.backward(self.model([None if g is None else g * share for g in grads]))
            with torch.no_grad() if GATHERS_INTO_VIEWS else nullcontext():
                self.model.step()

    def full(self) -> list[Tensor]:
        params = list(self.model.module.parameters())
        if self.stage == 3 and READS_TOO_EARLY:
            model = [together(p) for p in params]
        else:
            with deepspeed.zero.GatheredParameters(params):  # does nothing below ZeRO 3
                model = [p.detach().clone() for p in params]
        if self.dtype == torch.float32:
            return model
        if self.stage == 0:  # the fp32 copies, as the optimizer groups them
            matrices, others = (iter(group["params"]) for group in self.optimizer.param_groups)
            masters = [next(matrices if is_matrix(i) else others).detach() for i in range(len(params))]
        else:
            masters = [safe_get_full_fp32_param(p) for p in params]
        for low, high in zip(model, masters, strict=True):  # what the optimizer holds has reached the model
            torch.testing.assert_close(low, high.to(low.dtype), rtol=0, atol=0)
        return masters


def allow_float16() -> None:
    """DeepSpeed refuses fp16 on the CPU, where PyTorch has long had it."""
    accelerator = get_accelerator()
    accelerator.is_fp16_supported = lambda: True
    accelerator.supported_dtypes = lambda: [torch.float, torch.half, torch.bfloat16]


OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
LAYOUTS: dict[str, tuple[int, Callable[[Case, list[list[Tensor]]], Wrapped]]] = {
    "zero0": (2, partial(Zero, stage=0)),
    "zero0-bf16": (2, partial(Zero, stage=0, dtype=torch.bfloat16)),
    "zero1": (2, partial(Zero, stage=1)),
    "zero1-bf16": (2, partial(Zero, stage=1, dtype=torch.bfloat16, top={"data_types": {"grad_accum_dtype": "bf16"}})),
    "zero1-bf16-fp32": (
        2,
        partial(Zero, stage=1, dtype=torch.bfloat16, top={"data_types": {"grad_accum_dtype": "fp32"}}),
    ),
    "zero1-fp16": (2, partial(Zero, stage=1, dtype=torch.float16)),
    "zero2": (2, partial(Zero, stage=2)),
    "zero2-round-robin": (2, partial(Zero, stage=2, round_robin_gradients=True)),
    "zero2-accumulate": (2, partial(Zero, stage=2, micro_steps=2)),
    "zero2-clip": (2, partial(Zero, stage=2, clip=1.0)),
    "zero2-fp16": (2, partial(Zero, stage=2, dtype=torch.float16)),
    "zero2-offload": (2, partial(Zero, stage=2, **OFFLOAD)),
    "zero2-bf16": (2, partial(Zero, stage=2, dtype=torch.bfloat16)),
    "zero3": (2, partial(Zero, stage=3, stage3_param_persistence_threshold=0)),
    "zero3-persistent": (2, partial(Zero, stage=3)),
    "zero3-sub-groups": (2, partial(Zero, stage=3, sub_group_size=10, stage3_param_persistence_threshold=0)),
    "zero3-accumulate": (2, partial(Zero, stage=3, micro_steps=2)),
    "zero3-clip": (2, partial(Zero, stage=3, clip=1.0, sub_group_size=10)),
    "zero3-offload": (2, partial(Zero, stage=3, **OFFLOAD)),
    "zero3-offload-both": (2, partial(Zero, stage=3, **OFFLOAD, offload_param={"device": "cpu"})),
    "zero3-bf16": (2, partial(Zero, stage=3, dtype=torch.bfloat16)),
    "zero3-fp16": (2, partial(Zero, stage=3, dtype=torch.float16)),
}

if installed() < SCALES_ONLY_FP16:  # both have the wrapper that divides by a scale there, and are refused
    del LAYOUTS["zero0-bf16"], LAYOUTS["zero1-bf16-fp32"]
