"""Write down what an optimizer was given in a host's run; Python runs this first if ``GAP_WITNESS`` names a folder.

Each step's gradients, and the parameters before the first, go into files from which ``replay.py`` takes the same steps.
Only rank 0 writes, and only where every process has whole parameters (one process, DDP) or DeepSpeed puts the gradients
together, which it then has by name.
"""

import os
import sys
from pathlib import Path

engines = []  # DeepSpeed's, whose steps are written down by their own function


def begin():
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    from gap_hf.optim.shell import GapOptimizer

    folder, numbers, first = Path(os.environ["GAP_WITNESS"]), {}, {}

    def counts(optimizer):
        groups = optimizer.param_groups if isinstance(optimizer, GapOptimizer) else []
        whole = all(type(p) is torch.nn.Parameter for group in groups for p in group["params"])
        return groups and whole and not engines and not int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))

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


def begin_with_deepspeed():
    import torch
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.utils import safe_get_full_grad

    folder, original = Path(os.environ["GAP_WITNESS"]), DeepSpeedEngine.step

    def step(engine, *args, **kwargs):
        engines.append(engine)
        optimizer = engine.basic_optimizer
        options = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
        named = [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]
        grads = {name: safe_get_full_grad(p).clone() for name, p in named}  # which every rank must ask for
        if not int(os.environ.get("RANK", "0")):
            folder.mkdir(parents=True, exist_ok=True)
            found = {"class": type(optimizer).__name__, "options": options, "named": grads}
            torch.save(found, folder / f"step-{engine.global_steps + 1}.pt")
        return original(engine, *args, **kwargs)

    DeepSpeedEngine.step = step


class After:
    """A finder that lets the import of a module be followed by a function."""

    def __init__(self, module, then):
        self.module, self.then = module, then

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in sys.meta_path)), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_begin(module):
                execute(module)
                self.then()

            spec.loader.exec_module = execute_and_begin
        return spec


sys.meta_path.insert(0, After("gap_hf", begin))
sys.meta_path.insert(0, After("deepspeed.runtime.engine", begin_with_deepspeed))
