"""How parameters lie over processes: one adapter per backend, plain fragments and one reduction for the optimizer."""

import logging
import sys

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from . import deepspeed
from .launch import downgrade, lone_process, refuse_takeover
from .layout import Layout
from .live import connected, instances
from .single import Whole

logger = logging.getLogger(__name__)

register_optimizer_step_pre_hook(refuse_takeover)


def is_fsdp1(p: Tensor) -> bool:
    """Whether FSDP1 has marked ``p`` as its slice or flat parameter (``torch/distributed/fsdp/_common_utils.py``)."""
    return getattr(p, "_fsdp_flattened", False) or getattr(p, "_is_flat_param", False)


def refuse_torch_zero(optimizer: Optimizer) -> None:
    """Raise RuntimeError inside ``ZeroRedundancyOptimizer``, which gives every rank other parameters."""
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    if module is None or not connected():
        return
    if any(vars(z).get("optim") is optimizer for z in instances(module.ZeroRedundancyOptimizer)):
        raise RuntimeError(
            "torch's ZeroRedundancyOptimizer gives each rank some of the parameters and can't add up their scores; "
            "use FSDP2 or DeepSpeed ZeRO, which gap_hf knows"
        )


def local_part(tensor: Tensor) -> Tensor:
    """This rank's plain part of a saved buffer: itself, unless it is a DTensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of the same shape are cut over the same ranks in the same way."""
    if isinstance(one, DTensor) and isinstance(other, DTensor):
        return one.placements == other.placements and one.device_mesh == other.device_mesh
    return isinstance(one, DTensor) == isinstance(other, DTensor)


def find_layout(optimizer: Optimizer) -> Layout | None:
    """How the parameters of ``optimizer`` lie over processes at this moment.

    Returns:
        The layout; None while the backend is still wrapping the optimizer, when there is nothing to step yet.

    Raises:
        RuntimeError: a layout that gap_hf is not exact in, or does not know.
    """
    refuse_torch_zero(optimizer)
    wrapper, engine = deepspeed.find(optimizer)
    if wrapper is not None:
        if deepspeed.is_being_built(wrapper, engine):
            return None
        return deepspeed.layout(optimizer, wrapper, engine)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if any(isinstance(p, DTensor) for p in params):
        from .dtensor import Meshes

        return Meshes(optimizer.param_groups)
    if any(is_fsdp1(p) for p in params):
        from .fsdp1 import FlatShards

        return FlatShards(optimizer.param_groups)
    if any(hasattr(p, "ds_id") for p in params):
        raise RuntimeError(
            "these parameters were partitioned by DeepSpeed ZeRO 3 (zero.Init or HfDeepSpeedConfig), but the optimizer "
            "is not wrapped by a DeepSpeed engine: pass it to accelerator.prepare or deepspeed.initialize"
        )
    if engine is not None:  # ZeRO 0 in fp32 wraps nothing
        deepspeed.refuse_settings(None, engine)
    elif message := downgrade() or lone_process():
        logger.warning(message)
    return Whole(optimizer.param_groups)
