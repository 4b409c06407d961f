"""``GapCallback``: puts what the optimizer chose into Trainer's logs and the choices file."""

import logging
from pathlib import Path
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..choices.recorder import Recorder
from ..optim import GapOptimizer
from ..optim.find import find_gap_optimizer
from ..optim.takeover import has_gap_groups, refuse_gap_groups
from ..sharding.heap import instances
from .presets import PRESETS

logger = logging.getLogger(__name__)

_watching: "WeakKeyDictionary[GapOptimizer, ReferenceType[GapCallback]]" = WeakKeyDictionary()
"""The callback that records an optimizer's choices. It holds the optimizer, too: weak references let both go."""


class GapCallback(TrainerCallback):
    """Log a gap optimizer's choices and write them to ``output_dir``.

    Trainer gets one by itself once ``gap_hf`` is imported; add one only to change its options. It does nothing with
    another optimizer, or if the ``type`` is ``'default'`` (there is no choice to show).

    At ``logging_steps`` it adds, over the steps since the last log:

    * ``gap/beta1`` (or ``gap/momentum``): the mean of the applied candidates over parameters and steps,
    * ``gap/share_0.8``, ...: the share of each candidate, or in a mix ``gap/weight_0.8``, ...: its mean weight,
    * ``gap/dominance``: the largest of these,
    * ``gap/changed``: the share of choices that differ from the step before,
    * ``gap/correlation``: the mean cosine between the gradients of successive steps, measured on a sample,
    * ``gap/resets``: soft resets, counted per parameter (for ``'switch'`` per step),
    * ``gap/skipped``, only where there were any: steps that the loss scaler or DeepSpeed left out,
    * ``gap/not_counted``, only where there were any: parameters (for ``'switch'`` steps) whose score was NaN or
      infinite, so that the choice before stood.

    Args:
        record: whether to write the choices file (on rank 0 only).
        per_group: whether to log the same values under ``gap/group0/``, ``gap/group1/``, ..., too, if more than one
            parameter group has parameters (groups without any are not counted).
    """

    def __init__(self, record: bool = True, per_group: bool = False) -> None:
        self.record = record
        self.per_group = per_group
        self.recorder: Recorder | None = None
        self.training: TrainerState | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.end()  # of a training that broke off: an error, or auto_find_batch_size's next attempt
        optimizer = find_gap_optimizer(kwargs.get("optimizer"))
        if optimizer is None:
            if getattr(args.optim, "value", args.optim) in PRESETS:
                refuse_another_optimizer(args, kwargs.get("optimizer"))
            inner = innermost(kwargs.get("optimizer"))
            if has_gap_groups(inner):  # from a checkpoint, which has been loaded by now
                refuse_gap_groups(inner)
            return
        optimizer.layout()  # a layout that can't be exact is refused before the first batch
        if optimizer.type == "default":
            return
        # Trainer's own instance comes before the trackers, one that the user added after them: the first one works,
        # the others only hand it their options.
        owner = _watching[optimizer]() if optimizer in _watching else None
        if owner is not None and owner is not self and owner.recorder is not None:
            if owner.training is state:
                owner.recorder.record &= self.record
                owner.recorder.per_group |= self.per_group
                return
            owner.end()  # of another Trainer, whose training broke off
        _watching[optimizer], self.training = ref(self), state
        if state.global_step and not any(optimizer.state.values()) and state.is_world_process_zero:
            logger.warning(
                "resumed at step %d without optimizer state: moments, choices and counts start anew. optimizer.pt or "
                "scheduler.pt is missing in the checkpoint (Trainer loads both or neither).",
                state.global_step,
            )
        record = self.record and state.is_world_process_zero
        directory = run_directory(args, state)
        self.recorder = Recorder(
            optimizer, kwargs["model"], directory, state.global_step, record, per_group=self.per_group
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.recorder is not None:
            self.recorder.add(state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.recorder is not None:
            self.recorder.settle()  # a checkpoint has a choices file up to its step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # evaluation and the end-of-run summary log too; the choices belong to the training loss
        if self.recorder is None or not logs or "loss" not in logs:
            return
        values = self.recorder.summary()
        logs.update(values)  # the trackers come after us and see these
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(values)  # Trainer put a copy there before it called us

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.end()

    def end(self) -> None:
        """Close the recorder, if there is one."""
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            recorder.close()


class DefaultGapCallback(GapCallback):
    """The callback that Trainer gets by itself; a class of its own, so that a ``GapCallback`` is no duplicate of it."""


def run_directory(args: TrainingArguments, state: TrainerState) -> Path:
    """Return ``output_dir``, or in a hyperparameter search the trial's own directory, where its checkpoints go."""
    if state.is_hyper_param_search:
        from transformers import Trainer

        # neither the arguments nor the state say which trial this is, unless the user names trials
        for trainer in instances(Trainer):
            if trainer.state is state:
                return Path(trainer._get_output_dir(trainer._trial))
    return Path(args.output_dir or ".")


def innermost(optimizer: Any) -> Any:
    """Return the optimizer inside Accelerate's and DeepSpeed's wrappers."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def refuse_another_optimizer(args: TrainingArguments, optimizer: Any) -> None:
    """Raise ValueError, because ``optim`` names a gap optimizer and Trainer uses another."""
    optimizer = innermost(optimizer)
    name = getattr(args.optim, "value", args.optim)
    raise ValueError(
        f"optim={name} was asked for, but {type(optimizer).__module__}.{type(optimizer).__qualname__} would train. "
        'A DeepSpeed config with an "optimizer" block, Trainer(optimizers=...) and an overridden create_optimizer '
        f"replace it: remove that, or {name} from optim."
    )
