"""How parameters lie over processes: an entry per backend; the optimizer gets plain fragments and their reduction."""

from .backend import before_state_dict, find_layout, prepare, register
from .deepspeed import DeepSpeed, Unwrapped
from .dtensor import DTensors, cut_alike, local_part
from .fsdp1 import FSDP1
from .single import Single
from .torch_zero import TorchZero

__all__ = ["before_state_dict", "cut_alike", "find_layout", "local_part", "prepare", "register"]

register(DeepSpeed(), TorchZero(), DTensors(), FSDP1(), Unwrapped(), Single())
