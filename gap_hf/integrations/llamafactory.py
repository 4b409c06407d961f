"""LLaMA-Factory v1's plugin: ``optim_config: {name: gap_adamw, optim_args: "betas=0.5:0.9:0.99", weight_decay: 0.0}``.

LLaMA-Factory v0 trains with Hugging Face Trainer and needs no plugin.
"""

from typing import Any

from llamafactory.v1.core.base_trainer import BaseTrainer
from llamafactory.v1.plugins.trainer_plugins.optimizer import OptimizerPlugin
from llamafactory.v1.utils.callbacks import TrainerCallback

from ..choices.recorder import Recorder, is_first_process
from ..sharding.heap import instances
from ..trainer.presets import PRESETS, options_of


class GapCallback(TrainerCallback):
    """Adds the choices to the logs, and writes them to ``output_dir/gap_choices.jsonl``."""

    def __init__(self, trainer: Any) -> None:
        self.recorder = Recorder(
            trainer.optimizer, trainer.model, trainer.args.output_dir, trainer.global_step - 1, is_first_process()
        )

    def on_step_end(self, args: Any, state: Any, **kwargs: Any) -> None:
        self.recorder.add(state.global_step)

    def on_log(self, args: Any, state: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        logs.update(self.recorder.summary())

    def on_train_end(self, args: Any, state: Any, **kwargs: Any) -> None:
        self.recorder.close()


def build(model: Any, config: dict[str, Any]) -> Any:
    """Return the optimizer of the trainer whose ``optim_config`` this is; its first step starts the recording.

    Raises:
        ValueError: ``config`` has a key other than ``name``, ``optim_args`` and ``weight_decay``.
    """
    if unknown := config.keys() - {"name", "optim_args", "weight_decay"}:
        raise ValueError(
            f"optim_config: unknown {', '.join(sorted(unknown))}; options of {config['name']} go into optim_args, for "
            'example optim_args: "betas=0.5:0.9:0.99,type=switch"'
        )
    (trainer,) = [found for found in instances(BaseTrainer) if found.args.optim_config is config]
    options = options_of(config["name"], config.get("optim_args"))
    options |= {"lr": trainer.args.learning_rate, "weight_decay": config.get("weight_decay", 0.0)}
    optimizer = PRESETS[config["name"]].optimizer([p for p in model.parameters() if p.requires_grad], **options)

    def start(*_: Any) -> None:
        if not hasattr(trainer, "callback_handler"):  # torch takes a step to load an FSDP2 checkpoint
            return
        hook.remove()
        if optimizer.type != "default":
            trainer.callback_handler.callbacks.insert(0, GapCallback(trainer))  # before those that show the logs

    hook = optimizer.register_step_pre_hook(start)  # the trainer has its callbacks and global_step only later
    return optimizer


for name in PRESETS:
    OptimizerPlugin(name).register()(build)
