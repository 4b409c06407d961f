"""``type='default'`` hands fragments to torch's own functions; this makes sure that they read them right."""

import dataclasses

import torch
from torch import Tensor

from ..sharding.layout import Part


def for_torchs_kernel(part: Part) -> Part:
    """``part`` so that torch's fused kernels, which read memory as it lies, read it right.

    torch.optim's own classes hand them whatever they get, and move other elements than the gradient's.

    Raises:
        RuntimeError: a parameter has gaps or overlaps in memory, or is on a device that they do not know.
    """
    if not part.group["fused"]:
        return part
    grads: list[Tensor | None] = []
    for value, grad in zip(part.values, part.gradients(), strict=True):
        if value.is_contiguous() and grad.is_contiguous() and not value.is_meta:
            grads.append(grad)
            continue
        if value.is_meta or not torch.ops.aten.is_non_overlapping_and_dense(value):
            what = "is on the meta device" if value.is_meta else f"has the strides {value.stride()}"
            raise RuntimeError(
                f"fused=True needs parameters that fill their memory; one of shape {tuple(value.shape)} {what}. Leave "
                "fused out"
            )
        alike = value.stride() == grad.stride()
        grads.append(grad if alike else torch.empty_like(value).copy_(grad))
    return dataclasses.replace(part, grads=grads)
