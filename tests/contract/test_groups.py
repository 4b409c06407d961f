"""Parameter groups: their options, their names, what joins them later, and what is no group."""

import re

import pytest
import torch

from .checks import check
from .steps import copies, parameters, same, train, trained, values


@check()
def test_groups_with_the_same_options_are_one(variant):
    one, two = parameters(), parameters()
    end = train(variant.build(one))
    same(train(variant.build([{"params": two[:1]}, {"params": two[1:]}])), end)
    return end


@check(lambda variant: variant.row != "switch" and not (variant.row == "mix" and variant.family == "sgd"))
def test_groups_are_several_optimizers(variant):
    """Each group has its own lr and decay. (``'switch'`` and a mix by score make one choice for all of them.)"""
    together = parameters()
    options = [{"lr": 0.1, "weight_decay": 0.2}, {"lr": 0.01, "weight_decay": 0.0}, {}]
    optimizer = variant.build([{"params": p, **given} for p, given in zip(together, options, strict=True)])
    apart = copies(together)
    alone = [variant.build([p], **given) for p, given in zip(apart, options, strict=True)]
    for seed in range(3):
        train(optimizer, 1, seed)
        for p, q, other in zip(together, apart, alone, strict=True):
            q.grad = p.grad.clone()
            other.step()
    same(values(apart), values(together))
    return values(together)


@check()
def test_a_groups_options_go_before_the_optimizers(variant):
    params = parameters()
    still = params[1].detach().clone()
    optimizer = variant.build([{"params": params[0], "lr": 0.1}, {"params": params[1]}], lr=0.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.0]
    end = train(optimizer)
    same(params[1].detach(), still)
    return end


@check()
def test_weight_decay_of_a_group(variant):
    """On zero gradients only the decay moves a parameter."""
    params = parameters()
    start = values(params)
    optimizer = variant.build([{"params": params[0], "weight_decay": 0.5}, {"params": params[1:]}], weight_decay=0.0)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert (params[0].abs() < start[0].abs()).all()
    same(values(params[1:]), start[1:])
    return values(params)


@check()
def test_options_changed_between_steps_count(variant):
    optimizer = variant.build(parameters())
    train(optimizer, 2)
    optimizer.param_groups[0]["lr"] *= 10
    optimizer.param_groups[0]["weight_decay"] = 0.1
    return train(optimizer, 2, seed=1)


@check()
def test_a_group_joins_later(variant):
    params = parameters()
    optimizer = variant.build(params[:2])
    train(optimizer)
    optimizer.add_param_group({"params": params[2], "lr": 0.5})
    train(optimizer, seed=1)
    other = variant.build([{"params": copies(params[:2])}, {"params": copies(params[2:])}])
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[1]["lr"] == 0.5
    return values(params)


@check()
def test_a_group_without_parameters(variant):
    optimizer = variant.build([{"params": parameters()}, {"params": []}])
    end = train(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    train(optimizer)
    return end


@check()
def test_names_of_parameters(variant):
    params = parameters()
    optimizer = variant.build([{"params": [("a", params[0]), ("b", params[1])]}, {"params": [("c", params[2])]}])
    end = train(optimizer)
    assert [group["param_names"] for group in optimizer.param_groups] == [["a", "b"], ["c"]]
    optimizer.add_param_group({"params": [("d", parameters((2,))[0])]})
    assert optimizer.param_groups[2]["param_names"] == ["d"]
    return end


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (lambda a, b: a, TypeError, "should be an iterable of Tensors or dicts"),
        (lambda a, b: [], ValueError, "empty parameter list"),
        (lambda a, b: [{"params": {a, b}}], TypeError, "ordered collections"),
        (lambda a, b: [{"params": [a]}, {"params": [a, b]}], ValueError, "more than one parameter group"),
        (lambda a, b: [a, "b"], TypeError, "can only optimize Tensors"),
        (lambda a, b: [a * 2], ValueError, "non-leaf"),
        (lambda a, b: [("a", a), b], ValueError, "with/without names"),
        (lambda a, b: [{"params": [a]}, {"params": [("b", b)]}], ValueError, "with/without names"),
        (lambda a, b: [{"lr": 0.1}], KeyError, "params"),
    ],
    ids=["a tensor", "nothing", "a set", "shared", "text", "no leaf", "half named", "one named", "no params"],
)
@check()
def test_what_is_no_group(variant, params, error, message):
    with pytest.raises(error, match=re.escape(message)):
        variant.build(params(*parameters((3,), (2,))))


@check()
def test_a_parameter_given_twice_is_warned_about(variant):
    (p,) = parameters((3,))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        variant.build([p, p])


@pytest.mark.parametrize(
    ("group", "error"),
    [
        (lambda a, b: {"params": [b, a]}, ValueError),
        (lambda a, b: [b], TypeError),
        (lambda a, b: {"params": {b}}, TypeError),
        (lambda a, b: {"params": [("b", b)]}, ValueError),
    ],
    ids=["shared", "a list", "a set", "named"],
)
@check()
def test_a_group_that_cant_join_changes_nothing(variant, group, error):
    a, b = parameters((3,), (2,))
    optimizer, undisturbed = variant.build([a]), variant.build(copies([a]))
    train(optimizer)
    train(undisturbed)
    with pytest.raises(error):
        optimizer.add_param_group(group(a, b))
    same(optimizer.state_dict(), undisturbed.state_dict())
    same(train(optimizer, seed=1), train(undisturbed, seed=1))


@check()
def test_a_generator_and_a_single_tensor(variant):
    end = train(variant.build(p for p in parameters()))
    optimizer = variant.build([{"params": p} for p in parameters()])
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1, 1]
    same(train(optimizer), end)
    return end


@check()
def test_it_can_be_printed(variant):
    text = repr(variant.build([{"params": parameters(), "lr": 0.125}]))
    assert type(variant.build(parameters())).__name__ in text
    assert "Parameter Group 0" in text
    assert "lr: 0.125" in text


@pytest.mark.parametrize("set_to_none", [True, False])
@check()
def test_zero_grad(variant, set_to_none):
    optimizer = variant.build(parameters())
    train(optimizer)
    optimizer.zero_grad(set_to_none=set_to_none)
    for p in trained(optimizer):
        assert p.grad is None if set_to_none else (p.grad == 0).all()
    optimizer.step()  # on gradients of zero the momentum goes on; without gradients nothing does
    return values(trained(optimizer))


@check()
def test_state_that_was_only_read(variant):
    """``optimizer.state`` makes an empty entry for whoever looks: that is no state."""
    optimizer = variant.build(parameters())
    assert not any(optimizer.state[p] for p in trained(optimizer))
    end = train(optimizer)
    same(train(variant.build(parameters())), end)
    return end


@check()
def test_the_first_gradient_comes_late(variant):
    """A parameter joins after a step, and somebody has looked for its state before."""
    params = parameters()
    optimizer = variant.build(params)
    assert not any(optimizer.state[p] for p in params)
    for p in params[:2]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return train(optimizer)
