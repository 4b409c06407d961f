"""Trainer's checkpoints, so that another backend or another number of processes can go on from them.

Trainer saves what each backend saves, which as a rule only that backend loads, and DeepSpeed's only on the same number
of processes. With ``portable=true`` in ``optim_args`` each checkpoint gets a folder with the whole state
(``gap_hf.save_portable``) beside that, and a run that is resumed in another layout takes it from there. In the layout
that wrote it the backend's own files are used, as ever.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from ..consolidated import convert_state_dict
from ..optim.find import find_gap_optimizer
from ..portable import FOLDER, INDEX, load_portable, save_portable
from ..sharding.ranks import from_first, is_first
from .optim_args import is_set
from .presets import PRESETS
from .wrapping import wrap

logger = logging.getLogger(__name__)


def resume_anywhere() -> None:
    """Wrap what Trainer saves and loads checkpoints with; a second call changes nothing."""
    from transformers import trainer

    wrap(trainer.Trainer, "_save_optimizer_and_scheduler", save)
    wrap(trainer.Trainer, "_load_from_checkpoint", load_weights)
    wrap(trainer.Trainer, "_load_optimizer_and_scheduler", load_state)
    wrap(trainer, "deepspeed_load_checkpoint", load_deepspeed)


def here() -> dict[str, Any]:
    """Describe the layout of this run as a checkpoint's portable state does."""
    state = AcceleratorState()
    kind = state.distributed_type.value
    if kind == "DEEPSPEED":
        layout = f"DeepSpeed ZeRO {state.deepspeed_plugin.zero_stage}"
    elif kind == "FSDP":
        layout = f"FSDP{getattr(state.fsdp_plugin, 'fsdp_version', 1)}"
    else:
        return {"layout": "whole parameters", "processes": 1}  # one process or DDP: they read each other's files
    return {"layout": layout, "processes": state.num_processes}


def from_elsewhere(checkpoint: str | Path | None) -> Path | None:
    """Return the folder with a checkpoint's portable state if another layout wrote it. Every rank must call it.

    Raises:
        ValueError: there is one that can't be read.
    """
    if checkpoint is None:
        return None
    folder = Path(checkpoint) / FOLDER
    wrote = from_first(written_in(folder) if is_first() else None)
    if isinstance(wrote, str):
        raise ValueError(wrote)
    return None if wrote in (None, here()) else folder


def written_in(folder: Path) -> dict[str, Any] | str | None:
    """Return the layout that wrote a portable state, or what is wrong with it; None if there is none."""
    if not folder.exists():
        return None
    try:
        return dict(json.loads((folder / INDEX).read_text())["note"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        return (
            f"{folder} is damaged ({type(error).__name__}: {error}); remove it to resume from the backend's own files"
        )


def is_ours(args: Any) -> bool:
    """Whether ``TrainingArguments`` name a gap optimizer."""
    return getattr(args.optim, "value", args.optim) in PRESETS


# ---------------------------------------------------------------- around Trainer's functions
def save(original: Callable[..., None], trainer: Any, output_dir: str) -> None:
    """Save the portable state, too, if that is asked for."""
    original(trainer, output_dir)
    if is_ours(trainer.args) and is_set(trainer.args.optim_args, "portable") and find_gap_optimizer(trainer.optimizer):
        save_portable(trainer.optimizer, trainer.model, Path(output_dir) / FOLDER, weights=True, note=here())


def load_weights(original: Callable[..., None], trainer: Any, checkpoint: str, *args: Any, **kwargs: Any) -> None:
    """Leave the weights to ``load_state``, which comes later, if another layout wrote them."""
    if not (is_ours(trainer.args) and from_elsewhere(checkpoint)):
        original(trainer, checkpoint, *args, **kwargs)


def load_state(original: Callable[..., None], trainer: Any, checkpoint: str | None) -> None:
    """Load the optimizer's state, and the weights, from the portable state if another layout wrote the checkpoint."""
    folder = from_elsewhere(checkpoint) if is_ours(trainer.args) else None
    if folder is None or trainer.is_deepspeed_enabled:  # there, load_deepspeed has loaded it, and the scheduler is left
        with converting(trainer):
            original(trainer, checkpoint)
        return
    tell(folder)
    warn_of_batch_size(trainer, folder.parent)
    load_portable(trainer.optimizer, trainer.model, folder)
    path = folder.parent / "scheduler.pt"
    if not path.exists():
        raise ValueError(
            f"{path} is missing, so the learning rate's schedule can't go on. A checkpoint lacks it if DeepSpeed's "
            'config has a "scheduler" block; let Trainer make the scheduler instead'
        )
    trainer.lr_scheduler.load_state_dict(torch.load(path, weights_only=True))
    if trainer.args.fp16 and not (folder.parent / "scaler.pt").exists():
        logger.warning("fp16's loss scale begins anew: %s has none", folder.parent)


def warn_of_batch_size(trainer: Any, checkpoint: Path) -> None:
    """Warn if Trainer took the batch size of each process from the checkpoint, which had another number of them."""
    taken, asked = trainer._train_batch_size, trainer.args.train_batch_size
    if taken not in (None, asked) and not trainer.args.auto_find_batch_size:
        logger.warning(
            "each process takes batches of %d, as those that saved the checkpoint did, not of %d: before version 5.5 "
            'transformers prefers the checkpoint\'s size. To have yours, set "train_batch_size" to %d in %s',
            taken, asked, asked, checkpoint / "trainer_state.json",
        )  # fmt: skip


def load_deepspeed(original: Callable[..., None], engine: Any, checkpoint: str, *args: Any, **kwargs: Any) -> None:
    """Load the portable state into DeepSpeed's engine if another layout wrote the checkpoint."""
    folder = from_elsewhere(checkpoint) if find_gap_optimizer(engine.optimizer) else None
    if folder is None:
        original(engine, checkpoint, *args, **kwargs)
        return
    if engine.lr_scheduler is not None:
        raise ValueError(
            f"{folder} was written in another layout, and the state of a scheduler that DeepSpeed makes does not move. "
            'Remove the "scheduler" block from DeepSpeed\'s config: Trainer then makes the scheduler'
        )
    tell(folder)
    load_portable(engine.optimizer, engine.module, folder)
    # it names its own checkpoints by this count
    engine.global_steps = json.loads((folder.parent / "trainer_state.json").read_text())["global_step"]
    if engine.fp16_enabled():
        logger.warning("fp16's loss scale begins anew: it does not move between layouts")


@contextmanager
def converting(trainer: Any) -> Iterator[None]:
    """Convert a state that is loaded meanwhile to this run's candidates and ``type``, if that is asked for."""
    optimizer = find_gap_optimizer(trainer.optimizer)
    if optimizer is None or not (is_ours(trainer.args) and is_set(trainer.args.optim_args, "convert")):
        yield
        return
    if trainer.is_deepspeed_enabled:
        raise ValueError(
            "optim_args: convert=true does not work under DeepSpeed, whose flat tensors hold parameters with different "
            "choices. Resume without it: the checkpoint's candidates go on"
        )
    hook = optimizer.register_load_state_dict_pre_hook(convert_state_dict)
    try:
        yield
    finally:
        hook.remove()


def tell(folder: Path) -> None:
    """Say on rank 0 that the portable state is used."""
    if is_first():
        wrote, now = written_in(folder), here()
        assert isinstance(wrote, dict)
        logger.warning(
            "%s was written by %s on %d processes; this run (%s, %d) goes on from %s",
            *(folder.parent, wrote["layout"], wrote["processes"], now["layout"], now["processes"], folder),
        )
