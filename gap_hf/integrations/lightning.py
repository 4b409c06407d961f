"""A Lightning callback that logs a gap optimizer's choices and writes the choices file."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..choices.recorder import Recorder
from ..optim.find import find_gap_optimizer


class GapCallback(Callback):
    """Pass one to ``Trainer(callbacks=[...])``: the values go to Trainer's loggers, every ``log_every_n_steps``.

    Args:
        output_dir: the directory of the choices file; None takes the logger's, or ``default_root_dir`` without any.
        per_group: whether to log the values of each parameter group, too.
    """

    def __init__(self, output_dir: str | Path | None = None, per_group: bool = False) -> None:
        self.output_dir, self.per_group = output_dir, per_group
        self.recorder: Recorder | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir or trainer.default_root_dir  # asked for on every rank: it is broadcast
        gap = next(
            (o for o in map(find_gap_optimizer, trainer.optimizers) if o is not None and o.type != "default"), None
        )
        if gap is not None:
            self.start = trainer.global_step
            self.recorder = Recorder(
                gap, pl_module, self.output_dir or directory, self.start, trainer.is_global_zero, self.per_group
            )

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step = trainer.global_step
        if self.recorder is None or step == self.start:  # no step was taken: gradients are being accumulated
            return
        self.start = step
        self.recorder.add(step)
        if step % trainer.log_every_n_steps == 0:
            values = self.recorder.summary()
            for logger in trainer.loggers:
                logger.log_metrics(values, step)

    def on_save_checkpoint(self, *_: Any) -> None:
        if self.recorder is not None:
            self.recorder.settle()

    def on_train_end(self, *_: Any) -> None:
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            recorder.close()

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()
