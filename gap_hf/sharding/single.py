"""One process, or replicas that hold identical gradients (DDP): every parameter is whole, nothing is reduced."""

import logging

from torch.optim import Optimizer

from .backend import Backend
from .launch import downgrade, lone_process
from .layout import ParameterLayout

logger = logging.getLogger(__name__)


class Whole(ParameterLayout):
    """Every parameter is whole on every rank."""


class Single(Backend):
    """No backend: what no other entry claims. Warns where the launch was asked for something else."""

    name = "one process, DDP"

    def claims(self, optimizer: Optimizer) -> bool:
        return True

    def layout(self, optimizer: Optimizer) -> Whole:
        if message := downgrade() or lone_process():
            logger.warning(message)
        return Whole(optimizer.param_groups)
