"""The ``optim=`` names and what each stands for."""

from dataclasses import dataclass, field
from typing import Any

from ..optim import SGDM, Adam, GapAdamW, GapOptimizer

LLM_LORA: dict[str, Any] = {"betas": [0.8, 0.99], "type": "switch_parameter_wise"}
VISION_LORA: dict[str, Any] = {"betas": [0.5, 0.99], "type": "switch_parameter_wise"}
SMALL_BATCH: dict[str, Any] = {"betas": [0.5, 0.9, 0.99], "type": "switch", "J_ema": 0.9}
SGD_BASELINE: dict[str, Any] = {"momentum": [0.5, 0.9, 0.99], "type": "switch"}


@dataclass(frozen=True)
class Preset:
    """One ``optim=`` name.

    ``options`` go to the optimizer; a beta without its beta2 takes ``TrainingArguments.adam_beta2``. The recommended
    learning rate and decay are *not* applied by the name (``TrainingArguments`` owns both): see ``recommended``.
    """

    optimizer: type[GapOptimizer]
    options: dict[str, Any]
    use: str
    recommended: dict[str, float] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    "gap_adamw": Preset(GapAdamW, LLM_LORA, "AdamW, with the LLM LoRA candidates"),
    "gap_adam": Preset(Adam, LLM_LORA, "Adam (L2 decay), with the LLM LoRA candidates"),
    "gap_sgdm": Preset(SGDM, SGD_BASELINE, "SGD with momentum"),
    "gap_adamw_llm_lora": Preset(
        GapAdamW, LLM_LORA, "LoRA on language models", {"learning_rate": 2e-4, "weight_decay": 0.0}
    ),
    "gap_adamw_vision_lora": Preset(
        GapAdamW, VISION_LORA, "LoRA on ViT or DINO", {"learning_rate": 1e-3, "weight_decay": 0.01}
    ),
    "gap_adamw_small_batch": Preset(
        GapAdamW, SMALL_BATCH, "small batches, noisy gradients", {"learning_rate": 1e-3, "weight_decay": 0.01}
    ),
    "gap_sgdm_baseline": Preset(
        SGDM, SGD_BASELINE, "in place of an SGD baseline", {"learning_rate": 0.1, "weight_decay": 0.0}
    ),
}


def recommended(name: str) -> dict[str, Any]:
    """The ``TrainingArguments`` that go with a preset: ``optim``, ``learning_rate`` and ``weight_decay``.

    Example:
        ``TrainingArguments(output_dir, **gap_hf.recommended("gap_adamw_vision_lora"))``

    Raises:
        ValueError: ``name`` is not a preset with recommended values.
    """
    known = [n for n, preset in PRESETS.items() if preset.recommended]
    if name not in known:
        raise ValueError(f"{name!r} is not a preset; expected one of {', '.join(known)}")
    return {"optim": name, **PRESETS[name].recommended}
