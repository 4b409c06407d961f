"""The ``optim=`` names and their meanings."""

from dataclasses import dataclass, field
from typing import Any

from ..optim import GapOptimizer
from ..optim.families import OPTIMIZERS, sgdm
from ..optim.families.gap_adamw import DEFAULT_CANDIDATES, MIX_CANDIDATES, MIX_WEIGHTS
from . import optim_args

LLM_LORA: dict[str, Any] = {"betas": [beta1 for beta1, _ in DEFAULT_CANDIDATES], "type": "switch_parameter_wise"}
VISION_LORA: dict[str, Any] = {"betas": [0.5, 0.99], "type": "switch_parameter_wise"}
SMALL_BATCH: dict[str, Any] = {"betas": [0.5, 0.9, 0.99], "type": "switch", "J_ema": 0.9}
ADAMW_MIX: dict[str, Any] = {
    "betas": [beta1 for beta1, _ in MIX_CANDIDATES],
    "weights": list(MIX_WEIGHTS),
    "type": "mix",
}
SGDM_MIX: dict[str, Any] = {"momentum": list(sgdm.MIX_CANDIDATES), "weights": list(sgdm.MIX_WEIGHTS), "type": "mix"}
RF_ADAMW: dict[str, Any] = {"betas": [0.9], "eps": 1e-4, "batch_size": "told", "type": "default"}
ADAMS: dict[str, Any] = {"scalar_vector_weight_decay": 0.0}  # Trainer exempts biases and norms
TOLD: dict[str, Any] = {"batch_size": "told"}
UNCLIPPED: dict[str, float] = {"weight_decay": 0.0, "max_grad_norm": 0.0}
SGD_BASELINE: dict[str, Any] = {"momentum": [0.5, 0.9, 0.99], "type": "switch"}


@dataclass(frozen=True)
class Preset:
    """The meaning of one ``optim=`` name.

    The recommended learning rate and decay are *not* applied by the name (``TrainingArguments`` owns both): see
    ``recommended``.

    Attributes:
        class_name: the name of the optimizer's class.
        options: the optimizer's options; a beta without its beta2 takes ``TrainingArguments.adam_beta2``.
        use: what the name is meant for.
        recommended: the ``TrainingArguments`` that go with it.
    """

    class_name: str
    options: dict[str, Any]
    use: str
    recommended: dict[str, float] = field(default_factory=dict)

    @property
    def optimizer(self) -> type[GapOptimizer]:
        """The optimizer's class."""
        return OPTIMIZERS[self.class_name]


PRESETS: dict[str, Preset] = {
    "gap_adamw": Preset("GapAdamW", LLM_LORA, "AdamW, with the LLM LoRA candidates"),
    "gap_adam": Preset("Adam", LLM_LORA, "Adam (L2 decay), with the LLM LoRA candidates"),
    "gap_sgdm": Preset("SGDM", SGD_BASELINE, "SGD with momentum"),
    "gap_adamw_mix": Preset("GapAdamW", ADAMW_MIX, "AdamW that mixes the gradient into its momentum: nothing to sweep"),
    "gap_sgdm_mix": Preset("SGDM", SGDM_MIX, "the same for SGD, at the learning rate of momentum 0.9"),
    "adai": Preset("Adai", {}, "Adai: an inertia for each element, at a learning rate of SGD"),
    "adaiw": Preset("AdaiW", {}, "Adai with decoupled weight decay", {"learning_rate": 0.5, "weight_decay": 0.0}),
    "adaiv2": Preset("AdaiV2", {}, "AdaiW for a dampening below 1"),
    "adams": Preset(
        "Adams",
        {"scalar_vector_weight_decay": 0.0},  # Trainer exempts biases and norms
        "Adams: steps bounded by an angle, decay by the largest singular value",
        {"learning_rate": 1e-3, "weight_decay": 0.1},
    ),
    "rf_adamw": Preset(
        "RFAdamW",
        RF_ADAMW,
        "root-free AdamW, which is told the size of each batch",
        {"learning_rate": 0.05, **UNCLIPPED},
    ),
    "rf_rmsprop": Preset(
        "RFRMSprop", TOLD, "root-free RMSProp with momentum, likewise", {"learning_rate": 5e-3, **UNCLIPPED}
    ),
    "if_shampoo": Preset(
        "IFShampoo", TOLD, "Shampoo by matrix products alone, likewise", {"learning_rate": 5e-3, **UNCLIPPED}
    ),
    "gap_over": Preset("GapOver", {}, "choose among whole optimizers, or mix their steps"),
    "gap_adamw_llm_lora": Preset(
        "GapAdamW", LLM_LORA, "LoRA on language models", {"learning_rate": 2e-4, "weight_decay": 0.0}
    ),
    "gap_adamw_vision_lora": Preset(
        "GapAdamW", VISION_LORA, "LoRA on ViT or DINO", {"learning_rate": 1e-3, "weight_decay": 0.01}
    ),
    "gap_adamw_small_batch": Preset(
        "GapAdamW", SMALL_BATCH, "small batches, noisy gradients", {"learning_rate": 1e-3, "weight_decay": 0.01}
    ),
    "gap_sgdm_baseline": Preset(
        "SGDM", SGD_BASELINE, "in place of an SGD baseline", {"learning_rate": 0.1, "weight_decay": 0.0}
    ),
}


def options_of(
    name: str, text: str | None = None, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> dict[str, Any]:
    """Return the options that an ``optim=`` name and its ``optim_args`` give to the optimizer's constructor.

    Learning rate and decay are not among them.

    Args:
        name: one of ``PRESETS``.
        text: the ``optim_args``.
        beta1: ``TrainingArguments.adam_beta1``, which only ``type=default`` takes.
        beta2: ``TrainingArguments.adam_beta2``, for each candidate without its own.
        eps: ``TrainingArguments.adam_epsilon``, unless ``optim_args`` gives one.

    Raises:
        ValueError: ``text`` can't be read.
    """
    preset = PRESETS[name]
    given = optim_args.parse(preset.optimizer, optim_args.split(text))
    options = preset.options | given
    if {preset.optimizer.family.candidate_option, "type"} & given.keys() and "weights" not in given:
        options.pop("weights", None)  # the preset's belong to its own candidates
    adam = {"beta1": beta1, "beta2": beta2, "epsilon": eps}
    preset.optimizer.family.from_training_arguments(options, given, adam)
    return options


def recommended(name: str) -> dict[str, Any]:
    """Return the ``TrainingArguments`` that go with a preset: ``optim``, ``learning_rate`` and ``weight_decay``.

    Example:
        ``TrainingArguments(output_dir, **gap_hf.recommended("gap_adamw_vision_lora"))``

    Raises:
        ValueError: ``name`` is not a preset with recommended values.
    """
    known = [n for n, preset in PRESETS.items() if preset.recommended]
    if name not in known:
        raise ValueError(f"{name!r} is not a preset; expected one of {', '.join(known)}")
    return {"optim": name, **PRESETS[name].recommended}
