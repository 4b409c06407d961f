"""Tell optimizers that must know it how many items each gradient is the mean of.

Trainer fetches the batches of a whole step before the first of them, and scales the loss by the number of their items
where the model takes that number (``num_items_in_batch``: tokens, for a language model). Neither reaches a callback, so
``Trainer.get_batch_samples`` is wrapped.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.utils import find_batch_size
from torch import Tensor

from ..optim.batch_size import TOLD, KnowsBatchSize
from ..optim.find import find_gap_optimizer
from .wrapping import wrap


def count_batches() -> None:
    """Wrap ``Trainer.get_batch_samples``; a second call changes nothing."""
    from transformers import Trainer

    wrap(Trainer, "get_batch_samples", tell_its_size)


def tell_its_size(original: Callable[..., Any], trainer: Any, *args: Any, **kwargs: Any) -> Any:
    """Fetch the batches of a step, and tell the optimizer how many items they have."""
    batches, items = original(trainer, *args, **kwargs)
    optimizer = find_gap_optimizer(trainer.optimizer)
    told = isinstance(optimizer, KnowsBatchSize) and any(g["batch_size"] == TOLD for g in optimizer.param_groups)
    if told and batches:
        optimizer.tell_batch_size(batch_size(trainer, batches, items))  # type: ignore[union-attr]
    return batches, items


def batch_size(trainer: Any, batches: list[Any], items: Any) -> float:
    """Return how many items the gradient of the next step is the mean of.

    Args:
        trainer: the Trainer.
        batches: this process's batches, one for each backward pass.
        items: Trainer's ``num_items_in_batch``; None if it does not scale the loss by it.

    Raises:
        ValueError: the items of a batch can't be counted.
    """
    args, copies = trainer.args, 1
    if items is None:
        local = float(sum(items_of(batch, getattr(trainer, "_loss_shifts_labels", False)) for batch in batches))
        sizes = (getattr(trainer, f"get_{kind}_size", lambda: 1) for kind in ("tp", "cp", "sp"))
        for size in sizes:  # processes with the same batch
            copies *= size()
    else:
        # with several GPUs in one process each of them is told the same number, or its share of it
        local = float(items.flatten()[0] if isinstance(items, Tensor) else items)
        if args.average_tokens_across_devices:
            return local
        local *= max(1, args.n_gpu)
    counts = torch.tensor(local, device=trainer.accelerator.device)
    return float(trainer.accelerator.gather(counts).sum()) / copies


def items_of(batch: Any, shifted: bool) -> int:
    """Count the labels of a batch that enter the loss, or its rows if it has none; ``shifted``: not the first of a row.

    Raises:
        ValueError: it has neither, or not in front.
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if isinstance(labels, Tensor):
        return int((labels[..., 1:] if shifted else labels).ne(-100).sum())
    try:
        return find_batch_size(batch)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the items of a batch can't be counted ({error}); give their number for each step: "
            'optim_args="batch_size=64"'
        ) from error
