"""Who takes part in a sweep."""

import pytest

from gap_hf.sweep.contenders import Role, contenders, controls

GRID = ["beta1=0.5", "beta1=0.8", "beta1=0.9", "beta1=0.95", "beta1=0.99"]


def test_the_pick_its_controls_and_the_grid():
    found = contenders("gap_adamw")
    assert [one.name for one in found] == ["gap_adamw", "random", "first", *GRID]
    assert [one.role for one in found[:3]] == [Role.PICK, Role.RANDOM, Role.FIRST]
    assert [one.name for one in found if one.role is Role.SMALLEST] == ["beta1=0.8"]
    assert [one.optim_args for one in found[:3]] == [None, "type=random_parameter_wise", "type=first"]


def test_controls_have_the_other_options_of_the_pick():
    found = {one.name: one.optim_args for one in contenders("gap_sgdm", "momentum=0.3:0.9,type=switch,soft_reset=0.7")}
    assert found["random"] == "momentum=0.3:0.9,type=random,soft_reset=0.7"
    assert found["first"] == "momentum=0.3:0.9,type=first,soft_reset=0.7"
    assert found["momentum=0.3"] == "type=default,momentum=0.3"


def test_without_controls():
    assert [one.name for one in contenders("gap_adamw", with_controls=False)] == ["gap_adamw", *GRID]


@pytest.mark.parametrize("text", ["type=default,betas=0.9", "betas=0.9"])
def test_a_single_candidate_has_no_controls(text):
    gap, *others = contenders("gap_adamw", text)
    assert gap.role is Role.GAP
    assert [one.name for one in others] == GRID


def test_the_smallest_candidate_joins_the_values():
    found = contenders("gap_adamw", "betas=0.7:0.3:0.99", [0.9, 0.5], with_controls=False)
    assert [(one.name, one.role) for one in found[1:]] == [
        ("beta1=0.3", Role.SMALLEST),
        ("beta1=0.5", Role.FIXED),
        ("beta1=0.9", Role.FIXED),
    ]
    assert [one.value for one in found] == [None, 0.3, 0.5, 0.9]


@pytest.mark.parametrize("type_", ["default", "random", "random_parameter_wise", "first"])
def test_what_does_not_pick_has_no_controls(type_):
    assert controls(type_, None, [0.8, 0.99]) == {}


def test_a_constant_mix_has_none_and_a_mix_by_scores_the_constant_one():
    """Its weights are 0.8 and 0.6 over their sum."""
    assert controls("mix", None, [0.6, 0.8]) == controls("mix_parameter_wise", [0.3, 0.7], [0.6, 0.8]) == {}
    constant = {"type": "mix", "weights": "0.571428571429:0.428571428571"}
    assert controls("mix", "score", [0.6, 0.8]) == {"constant_mix": (Role.CONSTANT, constant)}
    assert controls("mix_parameter_wise", "score", [0.6, 0.8]) == {"constant_mix": (Role.CONSTANT, constant)}


@pytest.mark.parametrize("type_", ["mix", "mix_parameter_wise"])
def test_mixes(type_):
    found = contenders("gap_adamw", f"type={type_},betas=0.5:0.9,weights=0.3:0.7")
    assert [one.name for one in found] == ["gap_adamw", *GRID]
    found = contenders("gap_adamw", f"type={type_},betas=0.5:0.9,weights=score")
    assert [one.name for one in found] == ["gap_adamw", "constant_mix", *GRID]
    assert found[1].optim_args == "type=mix,betas=0.5:0.9,weights=0.665193353994:0.334806646006"
