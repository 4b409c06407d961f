"""A check that no other optimizer trains with a gap optimizer's groups, built upon them or loaded from a state."""

import functools
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook


def has_gap_groups(optimizer: Any) -> bool:
    """Whether the first group of ``optimizer`` is a gap optimizer's; an entry that all of these save shows it."""
    groups: Any = getattr(optimizer, "param_groups", None)
    return bool(groups) and "negative_steps" in groups[0]


def refuse_gap_groups(optimizer: Optimizer) -> None:
    """Raise RuntimeError, as ``optimizer`` is not a gap optimizer but has loaded, or was built upon, the groups of one.

    accelerate builds DeepSpeedCPUAdam upon them under DeepSpeed's optimizer offload
    (``map_pytorch_optim_to_deepspeed``), and then silently trains with it.
    """
    name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
    if any(optimizer.state.values()):  # what was built upon the groups has none yet
        raise RuntimeError(
            f"the state that {name} has loaded is a gap optimizer's, which it can't continue. Resume with the optim "
            "that the checkpoint was trained with; or, to change the optimizer, delete optimizer.pt from the "
            "checkpoint: the run goes on from its weights and its step, with a new optimizer state and a learning rate "
            "schedule that starts again. (gap_hf.torch_state_dict turns a gap optimizer's state into torch.optim's.)"
        )
    raise RuntimeError(
        f"the gap optimizer was replaced by {name}, which took over its parameter groups. Under optimizer offload "
        'accelerate does this unless the DeepSpeed config says "zero_force_ds_cpu_optimizer": false. gap_hf sets that '
        "if the Accelerator exists before the optimizer is built: build the Accelerator first, or set the flag."
    )


@functools.cache
def refuse_takeovers(ours: type[Optimizer]) -> None:
    """From now on, refuse steps of optimizers other than ``ours`` with ``ours``'s groups. A second call does nothing.

    torch does not report which optimizer is built upon which groups or loads which state: only a hook on all
    optimizers' steps can see it. It is registered when the first gap optimizer is built, before which nothing can be
    taken over.
    """

    def before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not has_gap_groups(optimizer) or isinstance(optimizer, ours):
            return
        if not any(isinstance(inner, ours) for inner in vars(optimizer).values()):  # a wrapper around one
            refuse_gap_groups(optimizer)

    register_optimizer_step_pre_hook(before_step)
