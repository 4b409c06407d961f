"""torch's ``ZeroRedundancyOptimizer``, which is refused."""

import sys

from torch.optim import Optimizer

from .backend import Backend
from .heap import connected, instances
from .layout import Layout
from .refusal import Refusal


def is_inside(optimizer: Optimizer) -> bool:
    """Whether a ``ZeroRedundancyOptimizer`` holds ``optimizer``."""
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    if module is None or not connected():
        return False
    return any(vars(z).get("optim") is optimizer for z in instances(module.ZeroRedundancyOptimizer))


INSIDE = Refusal(
    "torch's `ZeroRedundancyOptimizer`",
    "nothing adds up the scores of different ranks there",
    "use FSDP2 or DeepSpeed ZeRO, which gap_hf knows",
    in_running=is_inside,
)


class TorchZero(Backend):
    """The entry for ``ZeroRedundancyOptimizer``, which gives every rank different parameters."""

    name = "torch's ZeRO"
    refusals = (INSIDE,)

    def claims(self, optimizer: Optimizer) -> bool:
        return INSIDE.is_running(optimizer)

    def layout(self, optimizer: Optimizer) -> Layout:
        raise RuntimeError(INSIDE.message("torch's ZeroRedundancyOptimizer gives each rank some of the parameters"))
