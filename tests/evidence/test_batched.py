"""The batched optimizers are the package's and torch's: choice by choice at every step, on the same gradients."""

import pytest
import torch
from evidence.batched.gap import SGDM, AdamW
from evidence.batched.rules import Pick, Scored

import gap_hf

from .streams import STEPS, Stream

PICKS = [
    pytest.param("switch_.5_.9_.99", (0.5, 0.9, 0.99), {"type": "switch"}, id="switch"),
    pytest.param("gap_small_batch", (0.5, 0.9, 0.99), {"type": "switch", "J_ema": 0.9}, id="switch, averaged"),
    pytest.param("pw_.5_.99", (0.5, 0.99), {"type": "switch_parameter_wise"}, id="for each"),
    pytest.param("pw_.8_.99", (0.8, 0.99), {"type": "switch_parameter_wise"}, id="for each, .8"),
    pytest.param("switch_.5_.9_.99_power", (0.5, 0.9, 0.99), {"type": "switch", "lr_modulation": True}, id="power"),
]


def package(family, betas, options, decay):
    if family == "adam":
        pairs = [(beta, 0.999) for beta in betas]
        return lambda params, lr: gap_hf.GapAdamW(params, lr=lr, betas=pairs, weight_decay=decay, **options)
    return lambda params, lr: gap_hf.SGDM(params, lr=lr, momentum=list(betas), **options)


@pytest.mark.parametrize("family", ["adam", "sgdm"])
@pytest.mark.parametrize(("contender", "betas", "options"), PICKS)
def test_choices(family, contender, betas, options):
    decay = 0.01 if family == "adam" else 0.0
    stream = Stream(contender, family, package(family, betas, options, decay), decay)
    seen = set()
    for t in stream.steps():
        for run, twin in enumerate(stream.twins):
            theirs = twin.param_groups[0]["last_choice"]
            theirs = theirs if isinstance(theirs, list) else [theirs]
            ours = stream.decided(run).argmax(-1).tolist()
            assert ours == theirs, f"step {t}, run {run}"
            seen.update(ours)
    assert len(seen) > 1, "there was something to choose"
    stream.assert_same_weights()


@pytest.mark.parametrize("family", ["adam", "sgdm"])
@pytest.mark.parametrize("each", [False, True], ids=["for all", "for each"])
def test_soft_resets(family, each):
    """With a threshold of 1 there are many; the package's counts agree at every step."""
    make, soft = {"adam": (AdamW, 0.9), "sgdm": (SGDM, 0.5)}[family]
    options = {"type": "switch_parameter_wise" if each else "switch", "hysteresis_threshold": 1, "soft_reset": soft}
    decider = Scored(Pick(), each, threshold=1)
    resets = []

    class Counting(make):
        def reset(self, due):
            resets.append(int(due.sum()))
            super().reset(due)

    stream = Stream(
        lambda setting: Counting(setting, (0.9, 0.99), decider),
        family,
        package(family, (0.9, 0.99), options, 0.0),
        0.0,
        1,
    )
    for t in stream.steps():
        for run, twin in enumerate(stream.twins):
            theirs = twin.param_groups[0]["last_choice"]
            assert stream.decided(run).argmax(-1).tolist() == (theirs if each else [theirs]), f"step {t}, run {run}"
    assert sum(resets) > 3
    stream.assert_same_weights()


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99])
def test_fixed_is_torchs(beta):
    adamw = lambda params, lr: torch.optim.AdamW(params, lr=lr, betas=(beta, 0.999), weight_decay=0.01)
    sgd = lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=beta)
    for family, make in (("adam", adamw), ("sgdm", sgd)):
        stream = Stream(f"fixed_{beta:g}", family, make, 0.01 if family == "adam" else 0.0)
        assert list(stream.steps())[-1] == STEPS - 1
        stream.assert_same_weights()


def test_nesterov_is_torchs():
    stream = Stream("nesterov", "sgdm", lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True))
    for _ in stream.steps():
        pass
    stream.assert_same_weights()


def test_first_is_the_smallest_fixed():
    """As long as no soft reset is due."""
    make = lambda params, lr: torch.optim.AdamW(params, lr=lr, betas=(0.5, 0.999), weight_decay=0.01)
    stream = Stream("first_.5_.9_.99", "adam", make)
    for _ in stream.steps():
        assert stream.decided(0).tolist() == [[1.0, 0.0, 0.0]]
    stream.assert_same_weights()
