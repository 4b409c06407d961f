"""The model's names of an optimizer's parameters, the same under every layout."""

from torch import nn

from ..optim import GapOptimizer

WRAPPERS = {"_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"}
"""Where FSDP1, activation checkpointing and torch.compile put the module that they wrap, at any depth."""


def parameter_names(optimizer: GapOptimizer, model: nn.Module) -> list[list[str]]:
    """Return the model's names of the optimizer's parameters, group by group; they are the same in every layout.

    Every rank must call it, unless a step has been taken (see ``GapOptimizer.layout``).
    """
    names = {id(p): plain_name(name) for name, p in model.named_parameters()}
    layout = optimizer.layout()
    groups = layout.parameters if layout is not None else [group["params"] for group in optimizer.param_groups]
    return [[names.get(id(p), f"group{g}.parameter{i}") for i, p in enumerate(group)] for g, group in enumerate(groups)]


def plain_name(name: str) -> str:
    """Return a parameter's name without the parts that wrappers added to it."""
    # DDP's and DeepSpeed's wrapper is outermost; further inside, "module" may be the model's own word
    return ".".join(part for part in name.removeprefix("module.").split(".") if part not in WRAPPERS)
