"""8-bit codes in the state of a parameter, which other code reads as float32 and gives in any dtype."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..sharding import local_part
from .arithmetic import eight_bit
from .work import Buffer


def widened(declared: Sequence[Buffer], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a parameter with float32 in the place of codes.

    Args:
        declared: the buffers as they are in the state's group.
        state: the buffers by name.
    """
    found = dict(state)
    for buffer in declared:
        code = state.get(buffer.name)
        if buffer.relative is not None and isinstance(code, Tensor) and code.dtype == torch.uint8:
            wide = found[buffer.name] = torch.empty_like(code, dtype=torch.float32)
            local_part(wide).copy_(eight_bit.decode(local_part(code), floors(buffer, state, code.device)))
    return found


def recode(
    declared: Sequence[Buffer], state: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
) -> tuple[dict[str, Tensor], int]:
    """Turn codes into float32 and numbers into codes, wherever ``dtypes`` says so.

    Args:
        declared: the buffers as they are in the state's group.
        state: the buffers by name.
        dtypes: the dtypes that they shall have.

    Returns:
        The buffers, and how many elements are larger than any code and became the largest.
    """
    found, wide, beyond = dict(state), widened(declared, state), 0
    for buffer in declared:
        if dtypes[buffer.name] != torch.uint8:
            found[buffer.name] = wide[buffer.name]
        elif state[buffer.name].dtype != torch.uint8:
            moment, codes = state[buffer.name], torch.empty_like(state[buffer.name], dtype=torch.uint8)
            m, floor = local_part(moment).float(), floors(buffer, state, moment.device)
            local_part(codes).copy_(eight_bit.encode(m, floor))
            found[buffer.name], beyond = codes, beyond + int((m.abs() > 248 * floor.view(torch.float32)).sum())
    return found, beyond


DECODED = "_decoded"
"""The end of a buffer's name where a checkpoint has float32 in the place of codes. Under the same name, one could be
loaded as the other: ``torch.distributed.checkpoint`` copies numbers into whatever dtype is there."""


def named(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved state under the buffers' own names."""
    return {name.removesuffix(DECODED) if isinstance(name, str) else name: found for name, found in state.items()}


def in_one_dtype(declared: Sequence[Buffer], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a parameter with all buffers of its shape in the widest of their dtypes, which loses nothing.

    ``named`` and ``recode`` turn it back into what it was: codes are exact in float32, and the nearest to themselves.

    Args:
        declared: the buffers as they are in the state's group.
        state: the buffers by name.
    """
    found, own = widened(declared, state), [buffer.name for buffer in declared if buffer.shape is None]
    there = [found[name] for name in own if name in found]
    widest = functools.reduce(torch.promote_types, (buffer.dtype for buffer in there), torch.bfloat16)
    found |= {name: found[name].to(widest) for name in own if name in found}
    coded = {name for name in own if name in state and state[name].dtype == torch.uint8}
    return {name + DECODED if name in coded else name: buffer for name, buffer in found.items()}


def floors(buffer: Buffer, state: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """What the codes of ``buffer`` are counted from, by the second moment in ``state``; of this rank's part."""
    assert buffer.relative is not None  # options.validate has seen to that
    second = local_part(state[buffer.relative.to]).to(device, torch.float32)
    return eight_bit.floors(second, buffer.relative.exponent)
