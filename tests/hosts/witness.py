"""Write down what an optimizer was given in a host's run; Python runs this first if ``GAP_WITNESS`` names a folder.

Each step's gradients, and the parameters before the first, go into files from which ``replay.py`` takes the same steps.
Only rank 0 writes, and only where every process has whole parameters (one process, DDP).
"""

import os
import sys
from pathlib import Path


def begin():
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    from gap_hf.optim.shell import GapOptimizer

    folder, numbers, first = Path(os.environ["GAP_WITNESS"]), {}, {}

    def counts(optimizer):
        groups = optimizer.param_groups if isinstance(optimizer, GapOptimizer) else []
        whole = all(type(p) is torch.nn.Parameter for group in groups for p in group["params"])
        return groups and whole and not int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))

    def before_step(optimizer, args, kwargs):
        if counts(optimizer) and id(optimizer) not in first:
            first[id(optimizer)] = [[p.detach().clone() for p in group["params"]] for group in optimizer.param_groups]

    def after_step(optimizer, args, kwargs):  # a closure has computed the gradients meanwhile
        if not counts(optimizer):
            return
        number = numbers[id(optimizer)] = numbers.get(id(optimizer), 0) + 1
        found = {"class": type(optimizer).__name__, "groups": []}
        for group, params in zip(optimizer.param_groups, first[id(optimizer)], strict=True):
            kept = {key: value for key, value in group.items() if key != "params"}
            kept["grads"] = [None if p.grad is None else p.grad.detach().clone() for p in group["params"]]
            found["groups"].append(kept | ({"params": params} if number == 1 else {}))
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(found, folder / f"step-{number}.pt")

    register_optimizer_step_pre_hook(before_step)
    register_optimizer_step_post_hook(after_step)


class AfterGapHf:
    """A finder that lets the import of gap_hf be followed by ``begin``."""

    def find_spec(self, name, path=None, target=None):
        if name != "gap_hf":
            return None
        sys.meta_path.remove(self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in sys.meta_path)), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_begin(module):
                execute(module)
                begin()

            spec.loader.exec_module = execute_and_begin
        return spec


sys.meta_path.insert(0, AfterGapHf())
