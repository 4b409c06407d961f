"""Plugins for axolotl that do what its YAML has no setting for: FSDP and DeepSpeed on CPUs, and a seed for adapters."""

from typing import Any

import torch
from accelerate import ParallelismConfig
from accelerate.state import DistributedType, PartialState
from axolotl.integrations.base import BasePlugin


class OnCpu(BasePlugin):
    """Take gloo for an accelerator, as ``tests.sharding.on_cpu`` does.

    Without it accelerate turns FSDP into DDP, silently, and has no backend for DeepSpeed: Trainer's ``ddp_backend``
    does not reach it where axolotl names DeepSpeed's config.
    """

    def register(self, cfg: Any) -> None:
        """Be there before accelerate's state; and FSDP's mesh is one of "cuda" in axolotl's code."""
        PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
        build = ParallelismConfig.build_device_mesh
        ParallelismConfig.build_device_mesh = lambda config, _: build(config, "cpu")
        if cfg.get("deepspeed"):
            from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

            # with gloo 0.18.9 gathers the weights into a tensor that autograd watches, which torch 2.13 refuses
            DeepSpeedZeroOptimizer.step = torch.no_grad()(DeepSpeedZeroOptimizer.step)


class Seeded(BasePlugin):
    """Have every run begin with the same adapters: axolotl makes them before Trainer sets the seed."""

    def pre_lora_load(self, cfg: Any, model: Any) -> None:
        """Set the seed right before."""
        torch.manual_seed(0)
