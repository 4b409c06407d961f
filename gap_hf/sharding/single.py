"""One process, or replicas that hold identical gradients (DDP): every parameter is whole, nothing is reduced."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from .layout import Fragment

ADVICE = (
    "gap_hf is exact in one process and under DDP; its scores need whole parameters, so it refuses sharded ones "
    "rather than choose differently. Run this model under DDP, or use another optimizer for this layout."
)


def fragments(param_groups: list[dict[str, Any]]) -> list[list[Fragment]]:
    """List, group by group, every parameter that has a gradient, each as one whole fragment.

    Raises:
        RuntimeError: a parameter is sharded or was flattened since it was handed to the optimizer, or a gradient is
            sparse.
    """
    found: list[list[Fragment]] = []
    for g, group in enumerate(param_groups):
        refuse_changed(group, g)
        found.append([])
        for i, p in enumerate(group["params"]):
            refuse_sharded(p, f"parameter {i} of group {g}")
            if p.grad is None:
                continue
            if p.grad.layout != torch.strided:
                raise RuntimeError(
                    f"the gradient of parameter {i} of group {g} is sparse, which gap_hf does not support; "
                    "build the layer with sparse=False"
                )
            found[g].append(Fragment(i, p, p, p.grad, p.numel()))
    return found


def reduce(tables: list[Tensor]) -> list[Tensor]:
    """Sum each group's table over the ranks that hold different elements: here there are none."""
    return tables


def refuse_sharded(p: Tensor, where: str) -> None:
    """Raise if ``p`` is one rank's part of a parameter."""
    if isinstance(p, DTensor):
        layout = f"a DTensor with placements {tuple(p.placements)} (FSDP2 or tensor parallel)"
    elif getattr(p, "_is_flat_param", False):
        layout = "an FSDP1 flat parameter"
    elif getattr(p, "_fsdp_flattened", False):  # FSDP1's mark on original parameters (fsdp/_flat_param.py)
        layout = "an FSDP1 shard"
    elif hasattr(p, "ds_id"):  # DeepSpeed's mark on ZeRO-3 parameters (zero/partition_parameters.py)
        layout = "a DeepSpeed ZeRO-3 parameter"
    else:
        return
    raise RuntimeError(f"{where} is {layout}. {ADVICE}")


def refuse_changed(group: dict[str, Any], index: int) -> None:
    """Raise if the group no longer holds the parameters it was built with (DeepSpeed ZeRO swaps in flat partitions)."""
    now = [p.numel() for p in group["params"]]
    if now != group["numel"]:
        raise RuntimeError(
            f"the parameters of group {index} were replaced after the optimizer was built: it was given "
            f"{len(group['numel'])} parameters with {sum(group['numel'])} elements and now holds {len(now)} with "
            f"{sum(now)}, as DeepSpeed ZeRO does when it flattens and partitions them. {ADVICE}"
        )
