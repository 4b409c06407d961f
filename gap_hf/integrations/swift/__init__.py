"""ms-swift's plugin: with this file in ``--external_plugins`` it knows ``--optimizer gap_adamw`` and the other names.

ms-swift builds its parser, with the choices of ``--optim``, before it imports plugins. So the names go into its own
table of optimizers. The rest is left to what builds an optimizer there: parameter groups (LoRA+, learning rates of a
vision tower) are ms-swift's, and the options are Trainer's, from ``optim_args``.

The folder is for this file alone: ms-swift puts the folder of a plugin in front of ``sys.path``.
"""

from typing import Any

from swift.optimizers import OptimizerCallback, optimizers_map

from gap_hf.trainer.presets import PRESETS
from gap_hf.trainer.registry import optimizer_name


class GapOptimizerCallback(OptimizerCallback):
    """Have ms-swift build the optimizer as it does for ``optim``, which gets the name that ``--optimizer`` gave."""

    def __init__(self, args: Any, trainer: Any) -> None:
        super().__init__(args, trainer)
        args.optim = optimizer_name(args.optimizer)

    def create_optimizer(self, model: Any = None) -> Any:
        """Return the optimizer, with the parameter groups that the other settings ask for."""
        builder = optimizers_map[self.groups(self.trainer.model if model is None else model)]
        return builder(self.args, self.trainer).create_optimizer(model)

    def groups(self, model: Any) -> str:
        """Return the name of ms-swift's own callback that builds the parameter groups."""
        if self.args.use_galore:
            raise ValueError(f"--use_galore and --optimizer {self.args.optimizer} are two optimizers: use one of them")
        if any(getattr(config, "lorap_lr_ratio", None) for config in getattr(model, "peft_config", {}).values()):
            return "lorap"
        return "default" if self.args.vit_lr is None and self.args.aligner_lr is None else "multimodal"


optimizers_map.update(dict.fromkeys(PRESETS, GapOptimizerCallback))
