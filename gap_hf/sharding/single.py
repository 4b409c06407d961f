"""The case without sharding, one process or DDP's replicas: every parameter is whole, and nothing is reduced."""

import logging

from torch.optim import Optimizer

from .backend import Backend
from .launch import downgrade, lone_process
from .layout import ParameterLayout

logger = logging.getLogger(__name__)


class Whole(ParameterLayout):
    """The layout in which every parameter is whole on every rank."""


class Single(Backend):
    """The entry for what no other claims: no backend. It warns if the launch was asked for something else."""

    name = "one process, DDP"

    def claims(self, optimizer: Optimizer) -> bool:
        return True

    def layout(self, optimizer: Optimizer) -> Whole:
        if message := downgrade() or lone_process():
            logger.warning(message)
        return Whole(optimizer.param_groups)
