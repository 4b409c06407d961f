"""The options that torch's tests try on its optimizers, good and bad ones."""

import copy
import warnings

import pytest
import torch

from .checks import check
from .inputs import of_torch
from .steps import mlp, parameters, same, values
from .variants import TORCHS

pytest.importorskip("expecttest", reason="torch's list of inputs needs it")

ACCEPTED = "lr as Tensor doesn't work with foreach"
"""The bad input that we take: our kernels are given the number in it."""


def inputs(variant):
    """Return the inputs of the variant's class, or of torch's class that it stands for."""
    return of_torch()[TORCHS.get(variant.cls, variant.cls).__name__]


def accepted(variant):
    """Yield the good inputs, but for ``amsgrad``, which has a check of its own. Several candidates stay as they are."""
    for given in inputs(variant).good.values():
        if "amsgrad" in given:
            continue
        if variant.kernel == "foreach" and variant.row in ("torch", "default") and torch.is_tensor(given.get("lr")):
            given = {**given, "lr": float(given["lr"])}
        if variant.several:
            given = {key: value for key, value in given.items() if key not in ("momentum", "betas")}
        yield copy.deepcopy(given)


def freeze_and_thaw(variant, options):
    """Take seven steps: the third without gradients, the fourth and fifth without those of one layer."""
    model = mlp()
    params = [*model.parameters(), *parameters(())]
    optimizer = variant.build(params, **options)
    for t in range(7):
        optimizer.zero_grad()
        model[2].requires_grad_(t not in (3, 4))
        if t != 2:
            model(torch.linspace(0.1, 0.6, 6).reshape(2, 3)).sum().backward()
            params[-1].grad = torch.tensor(0.5)
        optimizer.step()
    return values(params)


@check()
def test_good_inputs(variant):
    return [freeze_and_thaw(variant, given) for given in accepted(variant)]


@check()
def test_good_inputs_in_float64(variant):
    """The options are given to each of two groups."""
    ends = []
    for given in accepted(variant):
        params = parameters(dtype=torch.float64)
        optimizer = variant.build([{"params": params[:1], **given}, {"params": params[1:], **copy.deepcopy(given)}])
        for t in range(3):
            for p in params:
                p.grad = torch.full_like(p, 0.5 - 0.3 * t)
            optimizer.step()
        ends.append(values(params))
    return ends


@check(lambda variant: variant.kernel == "auto")  # some name a kernel
def test_bad_inputs(variant):
    """Our classes raise or warn where torch's do, perhaps in other words."""
    tried = 0
    for name, (params, given, error, message) in inputs(variant).bad.items():
        if variant.ours and name.startswith(ACCEPTED):
            variant.build(parameters(), **given)
            continue
        params = parameters() if params is None else params
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(error, match=None if variant.ours else message):
                variant.build(params, **copy.deepcopy(given))
        tried += 1
    assert tried >= 7


def test_their_inputs_are_there():
    assert set(of_torch()) == {"Adam", "AdamW", "SGD"}
    assert all(len(found.good) > 4 and len(found.bad) > 6 for found in of_torch().values())


def test_same_knows_a_difference():
    """``same`` is what all checks compare with."""
    a, b = torch.ones(2), torch.tensor([1.0, 1.0 + 1e-7])
    same([a], [b], exact=False)
    with pytest.raises(AssertionError, match=r"\[0\]"):
        same([a], [b])
    with pytest.raises(AssertionError):
        same({"a": 1}, {"b": 1})
