"""Mixes, controls and equal gains against the reference twin, as in ``test_twins.py``."""

import pytest
import torch

from .test_twins import run

RULES = {
    "mix": {"type": "mix"},
    "mix-weights": {"type": "mix", "weights": [3.0, 2.0, 0.0]},
    "mix-score": {"type": "mix", "weights": "score", "J_ema": 0.5},
    "mix-score-reset": {"type": "mix", "weights": "score", "hysteresis_threshold": 1, "soft_reset": 0.5},
    "mix_parameter_wise": {"type": "mix_parameter_wise", "weights": "score", "hysteresis_threshold": 2},
    "first": {"type": "first", "hysteresis_threshold": 1},
    "random": {"type": "random", "seed": 3},
    "random_parameter_wise": {"type": "random_parameter_wise"},
    "dc": {"type": "switch_parameter_wise", "lr_modulation": "dc"},
    "power": {"type": "switch", "lr_modulation": "power"},
}
OTHERS = {
    "adam": {"betas": [(0.0, 0.999), (0.9, 0.99), (0.99, 0.999)], "weight_decay": 0.1, "maximize": True},
    "sgdm": {"momentum": [0.0, 0.9, 0.99], "dampening": 0.3, "weight_decay": 0.1},
    "nesterov": {"momentum": [0.5, 0.9, 0.99], "nesterov": True},
}


REAL = [("mix", "sgdm"), ("mix-score", "adam"), ("mix_parameter_wise", "nesterov")]
CASES = [(rule, others, "random") for rule in RULES for others in OTHERS]
CASES += [(rule, others, "real") for rule, others in REAL]


@pytest.mark.parametrize(("rule", "others", "source"), CASES)
def test_rules(source, rule, others):
    """Among them a candidate without memory, which has no buffer; the twin keeps one all the same."""
    run(source, "adam" if others == "adam" else "sgdm", **OTHERS[others], **RULES[rule])


@pytest.mark.parametrize(("family", "rule"), [("adam", "mix"), ("adam", "mix-score"), ("sgdm", "mix_parameter_wise")])
def test_rules_in_low_precision(family, rule):
    run("random", family, torch.bfloat16, **OTHERS[family], **RULES[rule])
