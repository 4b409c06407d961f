"""Copies and pickles of an optimizer go on as it would have, and apart from it."""

import copy
import io
import pickle

import pytest
import torch

from .checks import check
from .steps import error, mlp, parameters, same, train, trained, values


def through_torch(optimizer):
    """Save and load the whole optimizer by torch."""
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


HOW = {"deepcopy": copy.deepcopy, "pickle": lambda o: pickle.loads(pickle.dumps(o)), "torch.save": through_torch}


@pytest.mark.parametrize("how", HOW)
@check()
def test_a_copy_goes_on_alike_and_apart(variant, how):
    optimizer = variant.build(parameters())
    train(optimizer, seed=1)
    other = HOW[how](optimizer)
    before = values(trained(other))
    end = train(optimizer, seed=2)
    same(values(trained(other)), before)
    same(train(other, seed=2), end)
    same(other.state_dict(), optimizer.state_dict())
    return end


@check()
def test_a_deepcopy_has_all_public_attributes(variant):
    optimizer = variant.build(parameters())
    train(optimizer)
    public = {name for name in vars(optimizer) if not name.startswith("_")}
    other = copy.deepcopy(optimizer)
    assert {name for name in vars(other) if not name.startswith("_")} == public


@check(lambda variant: variant.ours)
def test_a_deepcopy_knows_the_last_step(variant):
    """What a step leaves for observers is copied, too."""
    optimizer = variant.build(parameters())
    train(optimizer)
    other = copy.deepcopy(optimizer)
    assert other.steps_taken == optimizer.steps_taken == 3
    assert other.type == variant.row
    same(other.last_scores, optimizer.last_scores)
    assert other.last_resets == optimizer.last_resets
    same(other.decision().choices, optimizer.decision().choices)
    same(other.decision().scores_by_parameter(), optimizer.decision().scores_by_parameter())


@check()
def test_a_model_and_its_optimizer_are_copied_together(variant):
    model = mlp()
    optimizer = variant.build(model.parameters())
    again, other = copy.deepcopy((model, optimizer))
    assert all(p is q for p, q in zip(again.parameters(), trained(other), strict=True))
    for network, each in ((model, optimizer), (again, other)):
        for _ in range(3):
            each.zero_grad()
            error(network).backward()
            each.step()
    same(values(list(again.parameters())), values(list(model.parameters())))
    return values(list(model.parameters()))


@check()
def test_a_copy_takes_hooks(variant):
    optimizer = variant.build(parameters())
    train(optimizer)
    seen = []
    other = pickle.loads(pickle.dumps(optimizer))
    other.register_step_post_hook(lambda *_: seen.append("step"))
    other.register_load_state_dict_post_hook(lambda *_: seen.append("load"))
    train(other)
    other.load_state_dict(other.state_dict())
    assert seen == ["step"] * 3 + ["load"]


@check()
def test_a_pickle_of_an_older_version(variant):
    """``__setstate__`` adds the options that groups lack: torch's have got new ones over time, ours after 0.1.0."""
    optimizer = variant.build(parameters())
    train(optimizer)
    state = copy.deepcopy(optimizer.__getstate__())
    newer = ("K", "maximize", "differentiable") if variant.ours else ("foreach", "maximize", "differentiable")
    for group in state["param_groups"]:
        for option in newer:
            del group[option]
    other = type(optimizer).__new__(type(optimizer))
    other.__setstate__(state)
    assert set(newer) <= set(other.param_groups[0])
    same(train(other, seed=1), train(optimizer, seed=1), exact=False)
