"""The plugin for axolotl: its YAML says ``plugins: [gap_hf.integrations.axolotl.GapPlugin]``.

Every process of axolotl imports the plugins before it checks the rest of the YAML. An ``optimizer`` that it does not
build itself it leaves to Trainer, with ``optim_args``, learning rates, weight decay and parameter groups. So the import
is enough: it registers the names.
"""

from typing import Any

from axolotl.integrations.base import BasePlugin

from ..trainer.presets import PRESETS


class GapPlugin(BasePlugin):
    """Make ``optimizer: gap_adamw`` and the other gap optimizers available in axolotl's YAML."""

    def register(self, cfg: Any) -> None:
        """Let candidates be YAML lists, which axolotl would join by commas: ``optim_args: {betas: [0.5, 0.9, 0.99]}``.

        Raises:
            ValueError: a setting would have no effect.
        """
        if cfg.get("optimizer") not in PRESETS:
            return
        if cfg.get("relora"):
            raise ValueError(
                f"relora does not work with optimizer: {cfg['optimizer']}: its restarts reset the state of AdamW by "
                "name, and would leave GAP's moments as they are. Leave it out"
            )
        if isinstance(options := cfg.get("optim_args"), dict):
            cfg["optim_args"] = {key: joined(value, ":/") for key, value in options.items()}


def joined(value: Any, joints: str) -> Any:
    """Write candidates as ``optim_args`` has them: joined by ``:``, and pairs by ``/``."""
    if isinstance(value, list) and joints:
        return joints[0].join(str(joined(item, joints[1:])) for item in value)
    return value
