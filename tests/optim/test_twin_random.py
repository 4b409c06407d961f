"""Choices equal the reference twin's at every one of 300 steps, on random gradients."""

import pytest
import torch

from .twins import MOMENTUM, Twins, betas, random_gradients

STEPS = 300
SHAPES = [(17, 5), (64, 8), (3,), (), (0,), (2, 3, 4)]


def groups(dtype: torch.dtype, **second: float) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    params = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in SHAPES]
    return [{"params": params[:3]}, {"params": params[3:], **second}]


def run(family: str, dtype: torch.dtype = torch.float32, **options) -> Twins:
    twins = Twins(family, groups(dtype, weight_decay=0.0, lr=3e-3), **options)
    for _ in random_gradients(twins.params, STEPS):
        twins.step()
    assert len(twins.history) == STEPS
    return twins


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("distinct", [False, True], ids=["shared-b2", "distinct-b2"])
@pytest.mark.parametrize("K", [1, 2, 3, 5])
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
def test_adam(type_, K, distinct, dtype):
    twins = run("adam", dtype, type=type_, betas=betas(K, distinct), weight_decay=0.01)
    assert len(twins.flat_choices()) >= min(K, 2), "the gradients must make both win at times"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("K", [1, 2, 3, 5])
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
def test_sgdm(type_, K, dtype):
    twins = run("sgdm", dtype, type=type_, momentum=MOMENTUM[K], weight_decay=0.01)
    assert len(twins.flat_choices()) >= min(K, 2)


ADAM_OPTIONS = {
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "lr_modulation": {"lr_modulation": True},
    "reset-none": {"hysteresis_threshold": 1, "soft_reset": 0.5},
    "reset-same": {"hysteresis_threshold": 2, "soft_reset": 0.7, "second_order_momentum_reset_mode": "same"},
    "reset-square": {"hysteresis_threshold": 1, "soft_reset": 0.0, "second_order_momentum_reset_mode": "square"},
    "eps": {"eps": 1e-2},
}
SGDM_OPTIONS = {
    "nesterov": {"nesterov": True, "weight_decay": 0.1},
    "dampening": {"dampening": 0.3},
    "lr_modulation": {"lr_modulation": True},
    "reset": {"hysteresis_threshold": 1, "soft_reset": 0.3},
}
CASES = [("adam", name, options) for name, options in ADAM_OPTIONS.items()]
CASES += [("sgdm", name, options) for name, options in SGDM_OPTIONS.items()]


@pytest.mark.parametrize("J_ema", [0.0, 0.9])
@pytest.mark.parametrize("K", [2, 5])
@pytest.mark.parametrize(("family", "options"), [(f, o) for f, _, o in CASES], ids=[f"{f}-{n}" for f, n, _ in CASES])
def test_switch_options(family, options, K, J_ema):
    candidates = {"betas": betas(K, distinct=True)} if family == "adam" else {"momentum": MOMENTUM[K][::-1][: K - 1]}
    if family == "sgdm" and not options.get("nesterov"):
        candidates = {"momentum": MOMENTUM[K]}
    run(family, type="switch", J_ema=J_ema, **candidates, **options)


@pytest.mark.parametrize("K", [2, 5])
@pytest.mark.parametrize(("family", "options"), [(f, o) for f, _, o in CASES], ids=[f"{f}-{n}" for f, n, _ in CASES])
def test_parameter_wise_options(family, options, K):
    candidates = {"betas": betas(K, distinct=True)} if family == "adam" else {"momentum": MOMENTUM[K]}
    if options.get("nesterov"):
        candidates = {"momentum": [m for m in MOMENTUM[K] if m > 0]}  # torch's rule
    run(family, type="switch_parameter_wise", **candidates, **options)


def test_candidates_may_differ_between_groups_where_each_parameter_chooses_by_itself():
    both = groups(torch.float32)
    both[0]["betas"] = betas(3, distinct=False)
    both[1]["betas"] = betas(2, distinct=True)
    twins = Twins("adam", both, type="switch_parameter_wise")
    for _ in random_gradients(twins.params, STEPS):
        twins.step()
    assert twins.flat_choices() == {0, 1, 2}


@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
def test_the_twins_soft_reset_alike(type_):
    """The reset options above are only worth something if resets happen in those runs."""
    twins = Twins("adam", groups(torch.float32), type=type_, betas=betas(2, False), hysteresis_threshold=2)
    resets = 0
    for _ in random_gradients(twins.params, STEPS):
        twins.step()
        resets += bool(twins.gap.last_resets)
    assert resets >= 3
