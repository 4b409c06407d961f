"""The contenders: fixed beta1, the paper's types, mixes, controls, and other optimizers."""

from collections.abc import Callable, Sequence
from math import log2
from typing import NamedTuple

import torch

from .batched.gap import SGDM, AdamW
from .batched.layout import Batched, Setting
from .batched.others import AdEMAMix, AggMo, Lion, Nesterov, Prodigy, ScheduleFree
from .batched.rules import ByScore, Constant, Decider, First, Guard, Pick, Random, Rule, Scored, constant_weights

FIXED = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
REFERENCE = "fixed_0.9"
"""The learning rate tuned for it is run for every contender."""


class Contender(NamedTuple):
    """One contender.

    Attributes:
        build: makes the optimizer for a family and a setting.
        tier: the lower, the earlier it is run.
        candidates: its beta1 values, where it has some.
        families: that it is an optimizer of.
        shift: where its grid of learning rates begins, in powers of 2 from the study's, by family.
        comparable: whether its learning rate means the same as 0.9's.
        studies: that it is run on; None for all.
    """

    build: Callable[[str, Setting], Batched]
    tier: int
    candidates: tuple[float, ...] = ()
    families: tuple[str, ...] = ("adam", "sgdm")
    shift: tuple[int, int] = (0, 0)
    comparable: bool = True
    studies: tuple[str, ...] | None = None


Make = Callable[[Setting, Sequence[float], int], Decider]
"""Makes what decides, for a setting, the candidates and the family's hysteresis threshold."""


def _candidates(
    betas: tuple[float, ...], make: Make, modulation: str = "off", corrected: bool = False
) -> Callable[[str, Setting], Batched]:
    """An optimizer with candidates; ``modulation`` "mix" is equal DC gain, which mixes have always."""

    def build(family: str, setting: Setting) -> Batched:
        gains = "dc" if modulation == "mix" else modulation
        if family == "adam":
            return AdamW(setting, betas, make(setting, betas, 10), gains, corrected)
        return SGDM(setting, betas, make(setting, betas, 5), gains)

    return build


def _scored(rule: Callable[[Setting, Sequence[float]], Rule], per_parameter: bool = False, J_ema: float = 0.0) -> Make:
    return lambda setting, betas, threshold: Scored(rule(setting, betas), per_parameter, J_ema, threshold)


def _constant(weights: Sequence[float] | None = None) -> Make:
    return lambda setting, betas, threshold: Constant(
        constant_weights(betas) if weights is None else torch.tensor(weights)
    )


def _guard(weights: Sequence[float] | None, only_first: bool) -> Make:
    return lambda setting, betas, threshold: Guard(
        constant_weights(betas) if weights is None else torch.tensor(weights, dtype=torch.float64), only_first
    )


PICK = lambda setting, betas: Pick()
FIRST = lambda setting, betas: First()
RANDOM = lambda setting, betas: Random(setting.seeds)
SCORE = lambda setting, betas: ByScore(betas)
THREE, LONG, SHORT, TWO = (0.5, 0.9, 0.99), (0.8, 0.99), (0.5, 0.99), (0.5, 0.9)


def _fixed(beta: float) -> Contender:
    """SGD's step grows with 1 / (1 - beta), so its grid begins that much lower or higher."""
    shift = round(log2((1 - beta) / (1 - 0.9)))
    build = _candidates((beta,), _constant([1.0]))
    return Contender(build, 0, (beta,), shift=(-1 if beta == 0.99 else 0, shift))


def _picked(betas: tuple[float, ...], make: Make, tier: int, modulation: str = "off") -> Contender:
    return Contender(_candidates(betas, make, modulation), tier, betas, shift=(0, 1 if modulation == "off" else 0))


def _mixed(betas: tuple[float, ...], make: Make, tier: int, studies: tuple[str, ...] | None = None) -> Contender:
    return Contender(_candidates(betas, make, "mix"), tier, betas, studies=studies)


def _corrected(betas: tuple[float, ...], make: Make) -> Contender:
    return Contender(_candidates(betas, make, "off", corrected=True), 3, betas, ("adam",), studies=("lora", "lm_300"))


def _other(
    optimizer: Callable[[Setting], Batched], families: tuple[str, ...], shift: int = 0, comparable: bool = True
) -> Contender:
    build = lambda family, setting: optimizer(setting)
    return Contender(build, 2, families=families, shift=(shift, shift), comparable=comparable)


GUARDED = ("autoencoder", "quadratic", "mlp_b32", "lm_300", "cnn", "regression")

CONTENDERS: dict[str, Contender] = {
    **{f"fixed_{beta:g}": _fixed(beta) for beta in (0.9, *(b for b in FIXED if b != 0.9))},
    "qhm": _mixed((0.0, 0.9), _constant([0.3, 0.7]), 1),
    "mix_.5_.9_.99": _mixed(THREE, _constant(), 1),
    "pw_.5_.99": _picked(SHORT, _scored(PICK, True), 1),
    "pw_.8_.99": _picked(LONG, _scored(PICK, True), 1),
    "switch_.5_.9_.99": _picked(THREE, _scored(PICK), 1),
    "mix_score_.5_.9_.99": _mixed(THREE, _scored(SCORE), 1),
    "mix_score_pw_.5_.9_.99": _mixed(THREE, _scored(SCORE, True), 1),
    "gap_small_batch": _picked(THREE, _scored(PICK, J_ema=0.9), 1),
    "random_.5_.9_.99": _picked(THREE, _scored(RANDOM), 1),
    "first_.5_.9_.99": _picked(THREE, _scored(FIRST), 1),
    "mix_.5_.9": _mixed(TWO, _constant([0.5, 0.5]), 2),
    "random_pw_.5_.9_.99": _picked(THREE, _scored(RANDOM, True), 2),
    "switch_.5_.9_.99_dc": _picked(THREE, _scored(PICK), 2, "dc")._replace(families=("sgdm",)),
    "switch_.5_.9_.99_power": _picked(THREE, _scored(PICK), 2, "power")._replace(families=("sgdm",)),
    "ademamix": _other(AdEMAMix, ("adam",), -1),
    "aggmo": _other(AggMo, ("sgdm",), -2),
    "nesterov": _other(Nesterov, ("sgdm",)),
    "schedule_free": _other(ScheduleFree, ("adam",)),
    "prodigy": _other(Prodigy, ("adam",), comparable=False),
    "lion": _other(Lion, ("adam",), -3),
    "pw_.5_.99_corrected": _corrected(SHORT, _scored(PICK, True)),
    "pw_.8_.99_corrected": _corrected(LONG, _scored(PICK, True)),
    "mix_score_.5_.9_.99_corrected": _corrected(THREE, _scored(SCORE)),
    "mix_score_pw_.5_.9_.99_corrected": _corrected(THREE, _scored(SCORE, True)),
    "mix_guard_.5_.9_.99": _mixed(THREE, _guard(None, False), 3, GUARDED),
    "qhm_guard": _mixed((0.0, 0.9), _guard([0.3, 0.7], True), 3, GUARDED),
}


def takes_part(contender: str, study: str, family: str) -> bool:
    """Whether it is run on a study."""
    its = CONTENDERS[contender]
    return family in its.families and (its.studies is None or study in its.studies)
