"""Choices equal the reference twin's at every one of 300 steps, on random and on real gradients.

The real ones are those of a language model's training on real text, recorded once and replayed to every configuration;
``test_twin_training.py`` closes the loop.
"""

from collections.abc import Iterator

import pytest
import torch

from .twins import MOMENTUM, Twins, betas, random_gradients, recorded_training

STEPS = 300
SHAPES = [(17, 5), (64, 8), (3,), (), (0,), (2, 3, 4)]
pytestmark = pytest.mark.parametrize("source", ["random", "real"])


def parameters(source: str, dtype: torch.dtype) -> list[torch.Tensor]:
    if source == "real":
        return [p.to(dtype, copy=True).requires_grad_() for p in recorded_training(STEPS)[0]]
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in SHAPES]


def gradients(source: str, params: list[torch.Tensor]) -> Iterator[None]:
    if source == "random":
        yield from random_gradients(params, STEPS)
        return
    for recorded in recorded_training(STEPS)[1]:
        for p, g in zip(params, recorded, strict=True):
            p.grad = g.to(p.dtype, copy=True)
        yield


def groups(source: str, dtype: torch.dtype) -> list[dict]:
    """Two groups that differ in learning rate and decay, as Trainer makes them."""
    params = parameters(source, dtype)
    return [{"params": params[:3]}, {"params": params[3:], "weight_decay": 0.0, "lr": 3e-3}]


def run(source: str, family: str, dtype: torch.dtype = torch.float32, **options) -> Twins:
    twins = Twins(family, groups(source, dtype), **options)
    for _ in gradients(source, twins.params):
        twins.step()
    assert len(twins.history) == STEPS
    return twins


FP32, BF16 = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("K", "distinct", "dtype"),
    [(K, distinct, FP32) for K in (1, 2, 3, 5) for distinct in (False, True)] + [(2, True, BF16), (5, False, BF16)],
)
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
def test_adam(source, type_, K, distinct, dtype):
    twins = run(source, "adam", dtype, type=type_, betas=betas(K, distinct), weight_decay=0.01)
    assert len(twins.flat_choices()) >= min(K, 2), "the gradients must make both win at times"


@pytest.mark.parametrize(("K", "dtype"), [(K, FP32) for K in (1, 2, 3, 5)] + [(3, BF16)])
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
def test_sgdm(source, type_, K, dtype):
    twins = run(source, "sgdm", dtype, type=type_, momentum=MOMENTUM[K], weight_decay=0.01)
    assert len(twins.flat_choices()) >= min(K, 2)


ADAM_OPTIONS = {
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "lr_modulation": {"lr_modulation": True},
    "reset-none": {"hysteresis_threshold": 1, "soft_reset": 0.5},
    "reset-same": {"hysteresis_threshold": 2, "soft_reset": 0.7, "second_order_momentum_reset_mode": "same"},
    "reset-square": {"hysteresis_threshold": 1, "soft_reset": 0.0, "second_order_momentum_reset_mode": "square"},
    "eps": {"eps": 1e-2},
    "maximize": {"maximize": True, "weight_decay": 0.1},
}
SGDM_OPTIONS = {
    "nesterov": {"nesterov": True, "weight_decay": 0.1},
    "dampening": {"dampening": 0.3},
    "lr_modulation": {"lr_modulation": True},
    "reset": {"hysteresis_threshold": 1, "soft_reset": 0.3},
    "maximize": {"maximize": True, "nesterov": True, "weight_decay": 0.1},
}
CASES = [("adam", name, options) for name, options in ADAM_OPTIONS.items()]
CASES += [("sgdm", name, options) for name, options in SGDM_OPTIONS.items()]


def candidates(family: str) -> dict:
    """Three, with which all kernels take part."""
    return {"betas": betas(3, distinct=True)} if family == "adam" else {"momentum": MOMENTUM[3]}


@pytest.mark.parametrize("J_ema", [0.0, 0.9])
@pytest.mark.parametrize(("family", "options"), [(f, o) for f, _, o in CASES], ids=[f"{f}-{n}" for f, n, _ in CASES])
def test_switch_options(source, family, options, J_ema):
    run(source, family, type="switch", J_ema=J_ema, **candidates(family), **options)


@pytest.mark.parametrize(("family", "options"), [(f, o) for f, _, o in CASES], ids=[f"{f}-{n}" for f, n, _ in CASES])
def test_parameter_wise_options(source, family, options):
    run(source, family, type="switch_parameter_wise", **candidates(family), **options)


def test_candidates_may_differ_between_groups_where_each_parameter_chooses_by_itself(source):
    both = groups(source, torch.float32)
    both[0]["betas"] = betas(3, distinct=False)
    both[1]["betas"] = betas(2, distinct=True)
    twins = Twins("adam", both, type="switch_parameter_wise")
    for _ in gradients(source, twins.params):
        twins.step()
    assert twins.flat_choices() == {0, 1, 2}


@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
def test_the_twins_soft_reset_alike(source, type_):
    """The reset options above are only worth something if resets happen in those runs."""
    twins = Twins("adam", groups(source, torch.float32), type=type_, betas=betas(2, False), hysteresis_threshold=1)
    resets = 0
    for _ in gradients(source, twins.params):
        twins.step()
        resets += bool(twins.gap.last_resets)
    # the real run never turns against the sum over all parameters
    assert resets >= (0 if (source, type_) == ("real", "switch") else 3)
