"""What training loops do with an optimizer."""

import copy

import pytest
import torch
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from .checks import check
from .steps import error, mlp, parameters, random, same, train, trained, values


def fit(model, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        error(model).backward()
        optimizer.step()
    return values(list(model.parameters()))


@check()
def test_it_learns(variant):
    model = mlp()
    start = error(model).item()
    end = fit(model, variant.build(model.parameters(), lr=0.02), 10)
    assert error(model).item() < start
    return end


@check()
def test_maximize_is_the_other_sign(variant):
    params, mirrored = parameters(), parameters()
    optimizer = variant.build(params, maximize=True, weight_decay=0.1)
    other = variant.build(mirrored, weight_decay=0.1)
    train(optimizer)
    generator = torch.Generator().manual_seed(0)
    means = [random(p.shape, generator) for p in mirrored]
    for _ in range(3):
        for p, mean in zip(mirrored, means, strict=True):
            p.grad = -(mean + 0.5 * random(p.shape, generator))
        other.step()
    same(values(params), values(mirrored))
    return values(params)


@check()
def test_maximize_in_one_group(variant):
    params = parameters((3,), (3,))
    optimizer = variant.build([{"params": params[:1], "maximize": True}, {"params": params[1:]}], weight_decay=0.0)
    start = values(params)
    for p in params:
        p.grad = torch.ones(3)
    optimizer.step()
    assert (params[0] > start[0]).all()
    assert (params[1] < start[1]).all()
    return values(params)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@check()
def test_tensor_lr(variant, shape):
    """The tensor has one element, and any number of dimensions."""
    end = train(variant.build(parameters(), lr=torch.full(shape, 0.01)))
    same(end, train(variant.build(parameters(), lr=0.01)), exact=False)
    return end


@check()
def test_tensor_betas(variant):
    betas = (torch.tensor(0.9), torch.tensor(0.99))
    if variant.family == "adam":
        end = train(variant.build(parameters(), betas=betas))
        same(end, train(variant.build(parameters(), betas=(0.9, 0.99))), exact=False)


@check()
def test_closures(variant):
    """A closure is called once, with gradients enabled even inside ``no_grad``, and its loss is returned."""
    model, calls = mlp(), []
    optimizer = variant.build(model.parameters())

    def closure():
        assert torch.is_grad_enabled()
        calls.append(1)
        optimizer.zero_grad()
        loss = error(model)
        loss.backward()
        return loss

    assert torch.equal(optimizer.step(closure), error(mlp()))
    with torch.no_grad():
        optimizer.step(closure=closure)
    assert len(calls) == 2
    assert optimizer.step(lambda: None) is None
    assert optimizer.step() is None
    return values(list(model.parameters()))


@check()
def test_a_closure_that_fails_changes_nothing(variant):
    optimizer, undisturbed = variant.build(parameters()), variant.build(parameters())
    train(optimizer)
    train(undisturbed)

    def closure():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    same(train(optimizer, seed=1), train(undisturbed, seed=1))


@check()
def test_parameters_still_require_gradients(variant):
    params = parameters()
    train(variant.build(params))
    assert all(p.requires_grad and p.is_leaf for p in params)


@check()
def test_gradient_scaler(variant):
    """An overflow skips the step; otherwise it is the plain one, since the scale is a power of two."""
    params, plain = parameters(), parameters()
    optimizer, other = variant.build(params), variant.build(plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    for t, factor in enumerate((1.0, float("inf"), 0.5)):
        for p in (*params, *plain):
            p.grad = None
        sum((p * factor).square().sum() for p in plain).backward()
        scaler.scale(sum((p * factor).square().sum() for p in params)).backward()
        before = values(params)
        scaler.step(optimizer)
        scaler.update()
        if t == 1:
            same(values(params), before)
        else:
            other.step()
    same(values(params), values(plain))
    assert scaler.get_scale() == 2.0
    return values(params)


@check()
def test_gradient_scaler_with_clipping(variant):
    """Gradients are unscaled, then clipped, then used."""
    model = mlp()
    optimizer = variant.build(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(error(model)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
    return values(list(model.parameters()))


@check()
def test_stochastic_weight_averaging(variant):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    with torch.no_grad():
        for p, value in zip(model.parameters(), parameters(*[p.shape for p in model.parameters()]), strict=True):
            p.copy_(value)
    optimizer = variant.build(model.parameters(), lr=0.05)
    averaged, scheduler = AveragedModel(model), SWALR(optimizer, swa_lr=0.01, anneal_epochs=2)
    seen = []
    for _ in range(4):
        seen.append(fit(model, optimizer, 1))
        averaged.update_parameters(model)
        scheduler.step()
    mean = [torch.stack(history).mean(dim=0) for history in zip(*seen, strict=True)]
    same(values(list(averaged.module.parameters())), mean, exact=False)
    update_bn([random((8, 3), torch.Generator().manual_seed(1))], averaged)
    return values(list(averaged.module.parameters()))


@check()
def test_exponential_moving_average(variant):
    model = mlp()
    optimizer = variant.build(model.parameters())
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    expected = None
    for _ in range(3):
        now = fit(model, optimizer, 1)
        expected = now if expected is None else [0.5 * e + 0.5 * p for e, p in zip(expected, now, strict=True)]
        averaged.update_parameters(model)
    same(values(list(averaged.module.parameters())), expected, exact=False)
    return expected


@check(lambda variant: variant.ours or variant.kernel == "auto")  # compiling torch's takes a second or two
def test_compiled(variant):
    """``torch.compile`` of the step gives what the step gives."""
    optimizer = variant.build(parameters())
    optimizer_step, step = optimizer.step, torch.compile(optimizer.step, backend="eager")
    optimizer.step = step
    try:
        end = train(optimizer, 2)
    finally:
        optimizer.step = optimizer_step
        torch.compiler.reset()
    same(end, train(variant.build(parameters()), 2), exact=False)


@check()
def test_a_step_in_the_backward_pass(variant):
    """Each parameter has an optimizer, stepped by a hook as soon as the gradient is there."""
    model, plain = mlp(), mlp()
    apart = {p: variant.build([p]) for p in model.parameters()}
    beside = [variant.build([p]) for p in plain.parameters()]

    def hook(p):
        apart[p].step()
        apart[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    for _ in range(3):
        error(model).backward()
        error(plain).backward()
        for optimizer in beside:
            optimizer.step()
            optimizer.zero_grad()
    same(values(list(model.parameters())), values(list(plain.parameters())))
    return values(list(model.parameters()))


@check()
def test_accumulated_gradients(variant):
    model = mlp()
    optimizer = variant.build(model.parameters())
    for _ in range(3):
        error(model).backward()
        optimizer.step()  # and no zero_grad
    return values(list(model.parameters()))


@check()
def test_a_shared_parameter_is_stepped_once(variant):
    """Tied weights appear once among a module's parameters."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight.copy_(parameters((3, 3))[0])
    optimizer = variant.build(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    return values(list(model.parameters()))


@check()
def test_resume_on_freshly_built_parameters(variant):
    """A model and an optimizer that have never stepped take over where the others were."""
    model = mlp()
    optimizer = variant.build(model.parameters(), lr=0.02)
    fit(model, optimizer, 4)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    end = fit(model, optimizer, 4)
    torch.manual_seed(99)
    again = copy.deepcopy(model)
    for module in again:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    other = variant.build(again.parameters(), lr=0.02)
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    same(fit(again, other, 4), end)
    return end


@check()
def test_two_optimizers_do_not_meet(variant):
    """Steps of one between those of another change nothing."""
    one, undisturbed, between = (variant.build(parameters()) for _ in range(3))
    for seed in range(3):
        train(one, 1, seed)
        train(between, 2, seed + 10)
        train(undisturbed, 1, seed)
    same(values(trained(one)), values(trained(undisturbed)))


@check()
def test_differentiable(variant):
    """Autograd can go through a step."""
    (start,) = parameters((3,))
    p = start.clone()
    optimizer = variant.build([p], weight_decay=0.0, differentiable=True, foreach=None, fused=None)
    p.grad = (start * start).detach()
    optimizer.step()
    p.sum().backward()
    same(start.grad, torch.ones(3), exact=False)


@check()
def test_capturable(variant):
    """The option is for CUDA graphs."""
    train(variant.build(parameters(), capturable=True))


@check(lambda variant: variant.family == "adam")
def test_amsgrad(variant):
    return train(variant.build(parameters(), amsgrad=True))


def out_of_range(variant, name, **given):
    with pytest.raises(ValueError, match=name):
        variant.build(parameters(), **given)


@pytest.mark.parametrize("lr", [-1.0, torch.tensor(-0.5), torch.tensor([0.1, 0.1])], ids=str)
@check()
def test_learning_rates_out_of_range(variant, lr):
    out_of_range(variant, "lr|learning rate", lr=lr)


@check()
def test_weight_decay_out_of_range(variant):
    out_of_range(variant, "weight_decay", weight_decay=-0.1)


@check(lambda variant: variant.family == "adam")
def test_betas_and_eps_out_of_range(variant):
    for betas in ((1.0, 0.9), (-0.1, 0.9), (0.9, 1.0), (0.9, -0.1)):
        out_of_range(variant, "beta", betas=betas)
    out_of_range(variant, "eps", eps=-1e-8)


@check(lambda variant: variant.family == "sgd")
def test_momentum_out_of_range(variant):
    out_of_range(variant, "momentum", momentum=-0.5)


@check()
def test_foreach_and_fused_exclude_each_other(variant):
    with pytest.raises((ValueError, RuntimeError), match="fused.*foreach|foreach.*fused"):
        variant.build(parameters(), foreach=True, fused=True)


@check()
def test_an_unknown_option(variant):
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        variant.build(parameters(), learning_rate=0.1)


@check(lambda variant: variant.family == "sgd")
def test_nesterov_needs_momentum(variant):
    for given in ({"momentum": 0.0}, {"dampening": 0.1}):
        with pytest.raises(ValueError, match="(?i)nesterov"):
            variant.build(parameters(), nesterov=True, **given)


@check(lambda variant: variant.family == "sgd")
def test_nesterov_and_dampening(variant):
    return [
        *train(variant.build(parameters(), nesterov=True, weight_decay=0.1)),
        *train(variant.build(parameters(), dampening=0.5)),
    ]


@check(lambda variant: variant.family == "sgd" and not variant.several)
def test_without_momentum(variant):
    return train(variant.build(parameters(), momentum=0.0, weight_decay=0.1))
