"""``optim_args``: every option, and what a mistake is answered with."""

import inspect
import re

import pytest

import gap_hf
from gap_hf.trainer import optim_args

from ..tiny import tiny_trainer

BOTH = {
    "foreach=false": ("foreach", False),
    "fused=false": ("fused", False),
    "capturable=1": ("capturable", True),
    "state_dtype=bfloat16": ("state_dtype", "bfloat16"),
    "maximize=true": ("maximize", True),
    "differentiable=false": ("differentiable", False),
}
ADAM = {
    "betas=0.7:0.9:0.95": ("betas", [(0.7, 0.999), (0.9, 0.999), (0.95, 0.999)]),
    "betas=0.7/0.9:0.8/0.99": ("betas", [(0.7, 0.9), (0.8, 0.99)]),
    "betas=0.7": ("betas", [(0.7, 0.999)]),
    "betas=0.7/0.9": ("betas", [(0.7, 0.9)]),
    "betas=0:0.9": ("betas", [(0.0, 0.999), (0.9, 0.999)]),
    "eps=1e-6": ("eps", 1e-6),
    "decoupled_weight_decay=false": ("decoupled_weight_decay", False),
    "decoupled_weight_decay=True": ("decoupled_weight_decay", True),
    "type=switch": ("type", "switch"),
    "type=switch_parameter_wise": ("type", "switch_parameter_wise"),
    "lr_modulation=true": ("lr_modulation", True),
    "lr_modulation=0": ("lr_modulation", False),
    "lr_modulation=dc": ("lr_modulation", "dc"),
    "type=mix": ("type", "mix"),
    "type=mix_parameter_wise,weights=score": ("weights", "score"),
    "type=mix,betas=0:0.9,weights=0.3:0.7": ("weights", [0.3, 0.7]),
    "type=first": ("type", "first"),
    "type=random,seed=3": ("seed", 3),
    "type=random_parameter_wise": ("type", "random_parameter_wise"),
    "soft_reset=0.25": ("soft_reset", 0.25),
    "soft_reset=1": ("soft_reset", 1.0),
    "hysteresis_threshold=3": ("hysteresis_threshold", 3),
    "second_order_momentum_reset_mode=none": ("second_order_momentum_reset_mode", "none"),
    "second_order_momentum_reset_mode=same": ("second_order_momentum_reset_mode", "same"),
    "second_order_momentum_reset_mode=square": ("second_order_momentum_reset_mode", "square"),
    "type=switch,J_ema=0.5": ("J_ema", 0.5),
    " type = switch , J_ema=0.5, ": ("J_ema", 0.5),
    **BOTH,
}
SGDM = {
    "momentum=0.3:0.6": ("momentum", [0.3, 0.6]),
    "momentum=0.3": ("momentum", [0.3]),
    "dampening=0.1": ("dampening", 0.1),
    "nesterov=true": ("nesterov", True),
    "type=switch_parameter_wise": ("type", "switch_parameter_wise"),
    "lr_modulation=true": ("lr_modulation", True),
    "lr_modulation=Power": ("lr_modulation", "power"),
    "type=mix,momentum=0:0.9,weights=0.3:0.7": ("weights", [0.3, 0.7]),
    "type=random,seed=3": ("seed", 3),
    "soft_reset=0.25": ("soft_reset", 0.25),
    "hysteresis_threshold=3": ("hysteresis_threshold", 3),
    "J_ema=0.5": ("J_ema", 0.5),
    **BOTH,
}
CASES = [("gap_adamw", text, *want) for text, want in ADAM.items()]
CASES += [("gap_adam", text, *want) for text, want in ADAM.items()]
CASES += [("gap_sgdm", text, *want) for text, want in SGDM.items()]


def build(tmp_path, optim: str, optim_args: str):
    return tiny_trainer(tmp_path, optim=optim, optim_args=optim_args).create_optimizer()


@pytest.mark.parametrize(("optim", "text", "key", "value"), CASES)
def test_option_reaches_the_optimizer(tmp_path, optim, text, key, value):
    for group in build(tmp_path, optim, text).param_groups:
        assert group[key] == value
        assert type(group[key]) is type(value)


@pytest.mark.parametrize(("cls", "table"), [(gap_hf.GapAdamW, ADAM), (gap_hf.Adam, ADAM), (gap_hf.SGDM, SGDM)])
def test_every_option_is_tested(cls, table):
    options = set(inspect.signature(cls).parameters) - {"params", "lr", "weight_decay"}
    assert {key for key, _ in table.values()} == options


@pytest.mark.parametrize(
    ("optim", "text", "says"),
    [
        # unknown keys
        ("gap_adamw", "beta=0.8:0.99", ["unknown key 'beta'", "did you mean 'betas'?", "betas=0.8:0.99"]),
        ("gap_adamw", "momentum=0.5:0.9", ["unknown key 'momentum' for GapAdamW", "betas=0.8:0.99"]),
        ("gap_sgdm", "betas=0.8:0.99", ["unknown key 'betas' for SGDM", "momentum=0.5:0.9:0.99"]),
        ("gap_adamw", "lr=0.1", ["'lr'", "TrainingArguments.learning_rate"]),
        ("gap_adamw", "weight_decay=0.1", ["'weight_decay'", "TrainingArguments.weight_decay"]),
        ("gap_adamw", "params=1", ["unknown key 'params'"]),
        # malformed lists
        ("gap_adamw", "betas=0.8;0.99", ["betas='0.8;0.99'", "betas=0.8:0.99"]),
        ("gap_adamw", "betas=0.8:", ["betas='0.8:'", "betas=0.8:0.99"]),
        ("gap_adamw", "betas=[0.8:0.99]", ["betas='[0.8:0.99]'", "betas=0.8:0.99"]),
        ("gap_adamw", "betas=0.8/0.9/0.9", ["betas='0.8/0.9/0.9'", "0.8/0.999:0.99/0.9999"]),
        ("gap_adamw", "betas=0.8:1.5", ["betas=", "1.5", "two numbers in [0, 1)"]),
        ("gap_adamw", "betas=0.8:nan", ["betas=", "nan", "two numbers in [0, 1)"]),
        ("gap_sgdm", "momentum=0.5:x", ["momentum='0.5:x'", "momentum=0.5:0.9:0.99"]),
        ("gap_sgdm", "momentum=0.5:1", ["momentum=[0.5, 1.0]", "[0.5, 0.9, 0.99]"]),
        ("gap_sgdm", "momentum=0.5/0.9:0.9", ["momentum=", "momentum=0.5:0.9:0.99"]),
        # not key=value
        ("gap_adamw", "betas=0.8,0.99", ["'0.99' is not key=value", "betas=0.8:0.99"]),
        ("gap_adamw", "switch", ["'switch' is not key=value", "betas=0.8:0.99"]),
        ("gap_adamw", "type=", ["'type=' is not key=value"]),
        ("gap_adamw", "=switch", ["'=switch' is not key=value"]),
        ("gap_adamw", "type==switch", ["'type==switch' is not key=value"]),
        ("gap_adamw", "type=switch,type=default", ["'type' is given twice"]),
        # wrong names and values
        ("gap_adamw", "type=swich", ["type='swich'", "'switch'", "'switch_parameter_wise'", "'default'"]),
        (
            "gap_adamw",
            "second_order_momentum_reset_mode=cube",
            ["second_order_momentum_reset_mode='cube'", "none, same, square"],
        ),
        ("gap_adamw", "hysteresis_threshold=2.5", ["hysteresis_threshold='2.5'", "hysteresis_threshold=10"]),
        ("gap_adamw", "hysteresis_threshold=0", ["hysteresis_threshold=0", ">= 1"]),
        ("gap_adamw", "lr_modulation=yes", ["lr_modulation='yes'", "lr_modulation=power"]),
        ("gap_adamw", "type=mix,weights=some", ["weights='some'", "weights=0.3:0.7"]),
        ("gap_adamw", "type=mix,weights=0.3", ["1 weights for 2 candidates"]),
        ("gap_adamw", "type=mix,weights=-1:2", ["weights=[-1.0, 2.0]"]),
        ("gap_adamw", "weights=0.3:0.7", ["type='mix'", "leave weights out"]),
        ("gap_adamw", "type=random,seed=-1", ["seed=-1", ">= 0"]),
        ("gap_adamw", "maximize=yes", ["maximize='yes'", "maximize=false"]),
        ("gap_adamw", "differentiable=true", ["differentiable=True is not supported", "Leave it out"]),
        ("gap_adamw", "soft_reset=half", ["soft_reset='half'", "soft_reset=0.9"]),
        ("gap_adamw", "soft_reset=2", ["soft_reset=2.0", "[0, 1]"]),
        ("gap_adamw", "eps=-1", ["eps=-1.0", ">= 0"]),
        ("gap_adamw", "J_ema=0.5", ["J_ema=0.5", "type='switch'"]),
        ("gap_sgdm", "J_ema=1", ["J_ema=1.0", "[0, 1)"]),
        ("gap_sgdm", "type=default", ["type='default'", "one candidate"]),
        ("gap_sgdm", "nesterov=true,dampening=0.5", ["nesterov", "dampening=0.5"]),
    ],
)
def test_mistake_is_named(tmp_path, optim, text, says):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        build(tmp_path, optim, text)
    for part in says:
        assert part in str(error.value)


@pytest.mark.parametrize(("name", "optimizer"), [("gap_adamw", gap_hf.GapAdamW), ("gap_sgdm", gap_hf.SGDM)])
def test_examples_in_messages_work(tmp_path, name, optimizer):
    """What the messages advise is itself accepted."""
    tried = 0
    for key, (option, _) in optimizer.options.items():
        for advice in re.findall(r"\w+=[\w.:/]+", option.example):
            if advice == "type=default":  # takes one candidate
                advice += f",{optimizer.family.candidate_option}=0.9"
            if key == "weights":  # of two candidates
                advice += f",type=mix,{optimizer.family.candidate_option}=0:0.9"
            assert key in build(tmp_path, name, advice).param_groups[0]
            tried += 1
    assert tried >= 5


@pytest.mark.parametrize("optimizer", [gap_hf.Adam, gap_hf.SGDM])
def test_the_example_for_an_unknown_key_can_be_pasted(optimizer):
    with pytest.raises(ValueError, match="unknown key 'nonsense'") as caught:
        optim_args.parse(optimizer, {"nonsense": "1"})
    pasted = re.search(r'optim_args="([^"]*)"', str(caught.value))[1]
    assert optim_args.parse(optimizer, optim_args.split(pasted))["type"] == "switch"
