"""A look inside a gap optimizer, the same under every layout: its state, gathered by parameter names."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .choices.naming import parameter_names
from .optim.arithmetic.eight_bit import is_eight_bit
from .optim.find import find_gap_optimizer
from .optim.state import buffer_dtype


@torch.no_grad()
def consolidated_state_dict(optimizer: Any, model: nn.Module) -> dict[str, Any]:
    """Gather the optimizer's state from all ranks, for whole parameters and by their names, for inspection.

    Every rank must call it. For saving and resuming, use the backend's checkpoints (``docs/layouts.md#checkpoints``).

    Args:
        optimizer: a gap optimizer, or Accelerate's or DeepSpeed's wrapper of one.
        model: the model whose parameters it steps, wrapped or not.

    Returns:
        On rank 0 ``{"state": {name: {"step": ..., "exp_avg_0": ..., ...}}, "param_groups": [...]}`` like
        ``torch.optim``'s, with names in the place of parameter numbers; the tensors lie on the CPU and have the
        parameter's shape and the state's dtype (8-bit state is given in float32). On the other ranks an empty
        dictionary.

    Raises:
        TypeError: there is no gap optimizer inside ``optimizer``.
    """
    gap = find_gap_optimizer(optimizer)
    if gap is None:
        raise TypeError(f"{type(optimizer).__qualname__} is, or holds, no gap optimizer")
    layout = gap.layout()
    if layout is None:
        raise RuntimeError("the optimizer is still being wrapped")
    first = not dist.is_initialized() or dist.get_rank() == 0
    state: dict[str, dict[str, Tensor]] = {}
    groups = []
    for g, (group, names) in enumerate(zip(gap.param_groups, parameter_names(gap, model), strict=True)):
        local = [[gap.state[key] for key in layout.keys(g, i) if gap.state.get(key)] for i in range(len(names))]
        taken = [max((float(found["step"]) for found in pieces if "step" in found), default=-1.0) for pieces in local]
        steps = layout.maximum(torch.tensor(taken, dtype=torch.float64, device=layout.device)).tolist()
        for i, (name, step) in enumerate(zip(names, steps, strict=True)):
            if step < 0:  # it never had a gradient
                continue
            whole = {}
            for buffer in gap.family.buffers(group):
                dtype = buffer_dtype(buffer, group, layout.keys(g, i)[0])
                gathered = layout.whole(g, i, gap.state, buffer.name, dtype or torch.float32, buffer.shape)
                if is_eight_bit(gathered):
                    gathered = gathered.dequantize()
                if first:  # one at a time, so that no rank holds them all on its device
                    whole[buffer.name] = gathered.detach().cpu().clone()
            state[name] = {"step": torch.tensor(step, dtype=torch.float64, device="cpu"), **whole}
        groups.append({**group, "params": names})
    return {"state": state, "param_groups": groups} if first else {}
