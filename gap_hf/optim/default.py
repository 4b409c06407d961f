"""Checks for ``type='default'``, which hands fragments to torch's own functions: these must read them right."""

import dataclasses

import torch

from .work import Work


def for_torchs_kernel(work: Work) -> Work:
    """Prepare ``work`` so that torch's fused kernels, which read memory as it lies, read it right.

    torch.optim's own classes hand the kernels whatever they get; with other layouts the wrong elements move.

    Raises:
        RuntimeError: a parameter has gaps or overlaps in memory, or is on a device that the kernels do not know.
    """
    grads = []
    for value, grad in zip(work.values, work.grads, strict=True):
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
    return dataclasses.replace(work, grads=grads)
