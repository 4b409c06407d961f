"""Hooks run when torch's do, see what torch's see, and may change what torch's may."""

import copy

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .checks import check
from .steps import copies, parameters, same, train, trained, values


@pytest.mark.parametrize("when", ["pre", "post"])
@check()
def test_step_hooks_until_removed(variant, when):
    optimizer, seen = variant.build(parameters()), []
    handle = getattr(optimizer, f"register_step_{when}_hook")(lambda *given: seen.append(given))
    end = train(optimizer, 2)
    handle.remove()
    train(optimizer, 1)
    assert len(seen) == 2
    assert all(who is optimizer and kwargs == {} for who, _, kwargs in seen)
    return end


@check()
def test_global_step_hooks_run_around_its_own(variant):
    optimizer, seen = variant.build(parameters()), []
    other = torch.optim.SGD(parameters())
    handles = [
        register_optimizer_step_pre_hook(lambda *_: seen.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: seen.append("global post")),
        optimizer.register_step_pre_hook(lambda *_: seen.append("pre")),
        optimizer.register_step_post_hook(lambda *_: seen.append("post")),
    ]
    try:
        optimizer.step()
        other.step()
    finally:
        for handle in handles:
            handle.remove()
    optimizer.step()
    assert seen == ["global pre", "pre", "post", "global post", "global pre", "global post"]


@check()
def test_a_step_pre_hook_changes_the_arguments(variant):
    optimizer = variant.build(parameters())
    optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: ((args[0], lambda: "loss"), {}))
    assert optimizer.step() == "loss"


@check()
def test_a_step_pre_hook_changes_gradients(variant):
    """Gradient clipping by a hook does so."""
    optimizer = variant.build(parameters(), lr=0.1, weight_decay=0.0)
    start = values(trained(optimizer))

    def silence(optimizer, args, kwargs):
        for p in trained(optimizer):
            p.grad.zero_()

    optimizer.register_step_pre_hook(silence)
    same(train(optimizer), start)


@check()
def test_state_dict_hooks(variant):
    """One hook runs before and sees the optimizer; the other runs after, and may change or replace the dictionary."""
    optimizer = variant.build(parameters())
    train(optimizer)
    optimizer.register_state_dict_pre_hook(lambda optimizer: optimizer.state.__setitem__("note", 1))
    assert optimizer.state_dict()["state"]["note"] == 1
    optimizer.register_state_dict_post_hook(lambda optimizer, saved: saved.update(seen=saved["state"].pop("note")))
    assert optimizer.state_dict()["seen"] == 1
    optimizer.register_state_dict_post_hook(lambda optimizer, saved: {"wrapped": saved})
    assert set(optimizer.state_dict()["wrapped"]) == {"state", "param_groups", "seen"}


@check()
def test_load_hooks_before(variant):
    """They run in the order of registration, or first with ``prepend``, and may change or replace the dictionary."""

    def change(optimizer, saved):
        saved["param_groups"][0]["lr"] = 0.002

    def replace(optimizer, saved):
        saved = copy.deepcopy(saved)
        saved["param_groups"][0]["lr"] = 0.003
        return saved

    optimizer = variant.build(parameters())
    saved = optimizer.state_dict()
    first = optimizer.register_load_state_dict_pre_hook(change)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.002
    prepended = optimizer.register_load_state_dict_pre_hook(replace, prepend=True)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.002
    prepended.remove()
    optimizer.register_load_state_dict_pre_hook(replace)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.003
    first.remove()


@check()
def test_load_hooks_after(variant):
    optimizer = variant.build(parameters())
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.007
    seen = []
    handle = optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.param_groups[0]["lr"]))
    optimizer.load_state_dict(saved)
    handle.remove()
    optimizer.load_state_dict(saved)
    assert seen == [0.007]


@check()
def test_a_load_hook_converts_a_foreign_dict(variant):
    """Nothing may look at the dictionary before the hook has made one of the optimizer's of it."""
    optimizer = variant.build(parameters())
    train(optimizer, seed=1)
    saved = copy.deepcopy(optimizer.state_dict())
    foreign = {
        "version": 3,
        "options": saved["param_groups"],
        "slots": [{f"slot/{key}": value for key, value in state.items()} for state in saved["state"].values()],
    }

    def convert(optimizer, found):
        slots = [{key.removeprefix("slot/"): value for key, value in slot.items()} for slot in found["slots"]]
        return {"state": dict(enumerate(slots)), "param_groups": found["options"]}

    other = variant.build(copies(trained(optimizer)))
    other.register_load_state_dict_pre_hook(convert)
    other.load_state_dict(foreign)
    end = train(optimizer, seed=2)
    same(train(other, seed=2), end)
    return end


@check(lambda variant: variant.row == "default")
def test_a_load_hook_converts_torchs_state(variant):
    """Training that torch's class began goes on, bit for bit."""
    torchs = variant.partner().build(parameters(), lr=0.01)
    train(torchs, seed=1)

    def convert(optimizer, found):
        state = {}
        for index, slots in found["state"].items():
            moments = {f"{name}_0": value for name, value in slots.items() if name != "step"}
            state[index] = {"step": torch.tensor(3.0), **moments}
        group = {**optimizer.state_dict()["param_groups"][0], "lr": found["param_groups"][0]["lr"]}
        return {"state": state, "param_groups": [group]}

    other = variant.build(copies(trained(torchs)))
    other.register_load_state_dict_pre_hook(convert)
    other.load_state_dict(copy.deepcopy(torchs.state_dict()))
    same(train(other, seed=2), train(torchs, seed=2))


@check()
def test_a_load_hook_fills_what_an_old_dict_lacks(variant):
    """A hook may repair the dictionary in place."""
    optimizer = variant.build(parameters())
    train(optimizer, seed=1)
    saved = copy.deepcopy(optimizer.state_dict())
    decay = [group.pop("weight_decay") for group in saved["param_groups"]]

    def fill(optimizer, found):
        for group, value in zip(found["param_groups"], decay, strict=True):
            group.setdefault("weight_decay", value)

    other = variant.build(copies(trained(optimizer)))
    other.register_load_state_dict_pre_hook(fill)
    other.load_state_dict(saved)
    same(train(other, seed=2), train(optimizer, seed=2))


@check()
def test_it_is_named_in_profiles(variant):
    optimizer = variant.build(parameters())
    with torch.autograd.profiler.profile() as profile:
        train(optimizer, 1)
        optimizer.zero_grad()
    names = {event.name for event in profile.function_events}
    cls = type(optimizer).__name__
    assert {f"Optimizer.step#{cls}.step", f"Optimizer.zero_grad#{cls}.zero_grad"} <= names
