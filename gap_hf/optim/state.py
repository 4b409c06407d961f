"""The state of each parameter: which tensors it has, in which precision and on which device.

It holds only tensors, under the names that the family gives them, and the count of steps: the one layout that every
backend's checkpoints carry unharmed.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..sharding.layout import Layout
from ..sharding.part import Part
from .family import Family, Grain, TorchsDefault
from .kernels.pick import pick
from .work import Buffer

CPU = torch.device("cpu")

COMPACT = {"float32": torch.float32, "bfloat16": torch.bfloat16, "8bit": torch.uint8}
"""What ``state_dtype`` stands for; codes of 8 bits are bytes (``arithmetic/eight_bit.py``)."""


def buffer_dtype(buffer: Buffer, group: Mapping[str, Any], key: Tensor) -> torch.dtype:
    """The dtype that ``buffer`` of the parameter ``key`` is stored in."""
    if buffer.dtype is not None:
        return torch.promote_types(key.dtype, buffer.dtype)
    if group.get("state_dtype") is None:
        return key.dtype
    return COMPACT[group["state_dtype"]] if buffer.compact else torch.float32


def counter_dtype_and_device(
    family: Family, declared: Sequence[Buffer], group: Mapping[str, Any], key: Tensor
) -> tuple[torch.dtype, torch.device]:
    """The dtype of the count of steps of ``key``, and its device: the buffers' only if the kernel reads it there.

    torch.optim counts in float32, which can't count past 2^24.
    """
    if group["type"] == "default" and isinstance(family, TorchsDefault):
        # what torch's own kernels read on a device
        if group.get("capturable") or group["fused"]:
            return torch.float32, key.device
        return torch.float64, CPU
    kinds = {buffer.compact: buffer_dtype(buffer, group, key) for buffer in reversed(declared)}
    dtypes = [kinds[which] for which in (True, False) if which in kinds]
    kernel = pick(family, group["foreach"], group["fused"], key.device.type, (key.dtype, key.dtype, *dtypes))
    return torch.float64, key.device if kernel.on_device else CPU


def make(
    state: MutableMapping[Tensor, Any],
    family: Family,
    group: Mapping[str, Any],
    key: Tensor,
    shapes: Callable[[], Sequence[torch.Size]],
) -> dict[str, Any]:
    """Return ``state[key]``; if there is none, it is made (and kept), with unused buffers and ``step`` 0.

    ``shapes`` gives the shapes of the whole parameters that ``key`` has parts of.
    """
    if found := state.get(key):
        return found
    made: dict[str, Tensor] = {}
    declared = family.buffers(group)
    if declared:
        dtype, device = counter_dtype_and_device(family, declared, group, key)
        made["step"] = torch.zeros((), dtype=dtype, device=device)
    for buffer in declared:
        made[buffer.name] = unused(buffer, group, key, shapes)
    state[key] = made  # all at once: an interrupt leaves none rather than half of it
    return made


def unused(buffer: Buffer, group: Mapping[str, Any], key: Tensor, shapes: Callable[[], Sequence[torch.Size]]) -> Tensor:
    """Make ``buffer`` of ``key`` as it is before the first step, laid out like ``key`` or in a shape of its own."""
    stored = buffer_dtype(buffer, group, key)
    if buffer.shape is None:
        like = torch.zeros_like(key, dtype=stored, memory_format=torch.preserve_format)
        return like.fill_(buffer.fill) if buffer.fill else like
    made = []
    for shape in shapes() or [torch.Size([0])]:  # of a flat tensor that is all padding
        made.append(torch.zeros(buffer.shape(shape), dtype=stored, device=key.device))
        if callable(buffer.fill):
            buffer.fill(made[-1], shape)
        else:
            made[-1].fill_(buffer.fill)
    return made[0] if len(made) == 1 else torch.cat([each.flatten() for each in made])


def refuse(layout: Layout, family: Family, groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise RuntimeError if parameters are in pieces, and the state would differ from that of a single process."""
    if not layout.reduces:
        return
    if refused := next((group for group in groups if family.grain_of(group) >= Grain.PARAMETER), None):
        raise RuntimeError(
            f"{family.needing_wholes(refused)} needs whole parameters (one process, DDP, DeepSpeed ZeRO 0), but here "
            "they are in pieces. Use one of those, or another optimizer."
        )


def only_makes_state(
    layout: Layout, parts: Sequence[Part], states: MutableMapping[Tensor, Any], family: Family
) -> bool:
    """Whether this call is not a step, but torch's way to have the state allocated before loading one.

    ``torch.distributed.checkpoint.state_dict`` calls ``step`` with zero gradients and a learning rate of zero
    (``_init_optim_state``); the state is made then, and nothing else happens.
    """
    if not layout.loads_by_stepping or (not layout.reduces and any(states.values())):
        return False
    if not all(torchs_zero(part.group["lr"]) for part in parts):
        return False
    # whether there is state, or a gradient, another rank may know better: all must ask
    grads = [grad for part in parts for grad in part.grads if grad is not None]
    is_step = any(states.values()) or any(bool(grad.any()) for grad in grads)
    if layout.maximum(torch.tensor(float(is_step), device=layout.device)):
        return False
    for part in parts:
        for key in part.with_grad().keys:
            make(states, family, part.group, key, partial(layout.shapes_in, part.g, key))
    return True


def torchs_zero(lr: float | Tensor) -> bool:
    """Whether ``lr`` may be the zero that torch's ``_init_optim_state`` puts in the place of a learning rate.

    In the place of a tensor that is a tensor on the default device. So one that is elsewhere is never read: to read a
    value from a GPU, the host must wait for it, and while a CUDA graph is captured it can't.
    """
    if isinstance(lr, Tensor) and lr.device.type not in ("cpu", torch.get_default_device().type):
        return False
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return False
    return not float(lr)
