"""Every scheduler of torch's and of transformers' drives the learning rate as it drives torch's optimizers."""

import copy
import inspect
import warnings

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR
from transformers import get_scheduler
from transformers.trainer_utils import SchedulerType

from .checks import check
from .steps import copies, parameters, same, train, trained, values

TORCHS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.5**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3], gamma=0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.4, total_iters=3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, start_factor=0.4, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, power=0.9, total_iters=4),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2, cycle_momentum=False),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8, cycle_momentum=False),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.5)], milestones=[2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.5)]
    ),
    "SWALR": lambda o: SWALR(o, swa_lr=0.5, anneal_epochs=3),
}
EXTRA = {
    "cosine_with_min_lr": {"min_lr": 0.001},
    "cosine_warmup_with_min_lr": {"min_lr": 0.001},
    "warmup_stable_decay": {"num_decay_steps": 2},
}
CYCLING = {
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8),
}


def of_transformers(name):
    """Return what makes the scheduler of Trainer's ``lr_scheduler_type=name``."""
    return lambda o: get_scheduler(name, o, 2, 8, EXTRA.get(name))


MAKERS = {**TORCHS, **{f"transformers: {kind.value}": of_transformers(kind.value) for kind in SchedulerType}}


def run(optimizer, scheduler, steps=5, seed=0):
    """Train, let the scheduler step, and return the rates and where the parameters end."""
    takes_loss = "metrics" in inspect.signature(scheduler.step).parameters
    rates = []
    with warnings.catch_warnings():
        # torch warns where its wrapper of ``step`` saw none
        warnings.filterwarnings("error", message=".*before.*optimizer.step")
        for t in range(steps):
            train(optimizer, 1, seed + t)
            scheduler.step(1.0) if takes_loss else scheduler.step()
            rates.append([float(group["lr"]) for group in optimizer.param_groups])
    return [*torch.tensor(rates, dtype=torch.float64), *values(trained(optimizer))]


def two_groups(variant, params, lr=0.1):
    return variant.build([{"params": params[:1]}, {"params": params[1:], "lr": lr / 2}], lr=lr)


@pytest.mark.parametrize("name", MAKERS)
@check()
def test_schedulers(variant, name):
    optimizer = two_groups(variant, parameters())
    return run(optimizer, MAKERS[name](optimizer))


def test_all_of_torchs_are_tried():
    found = {
        name
        for name, cls in vars(lr_scheduler).items()
        if inspect.isclass(cls) and issubclass(cls, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert found - {"LRScheduler"} <= set(TORCHS)


@pytest.mark.parametrize("name", CYCLING)
@check()
def test_schedulers_that_cycle_momentum(variant, name):
    """They write one momentum over the candidates. Where there are several, that is refused before anything moves."""
    params = parameters()
    optimizer = variant.build(params, lr=0.1)
    start = values(params)
    try:
        scheduler = CYCLING[name](optimizer)
        end = run(optimizer, scheduler)
    except ValueError:
        same(values(params), start)
        raise
    momentum = optimizer.param_groups[0].get("momentum") or optimizer.param_groups[0]["betas"][0]
    return [*end, torch.tensor(momentum, dtype=torch.float64)]


@pytest.mark.parametrize("name", ["LinearLR", "CosineAnnealingLR", "OneCycleLR", "ReduceLROnPlateau"])
@check(lambda variant: variant.kernel != "foreach")
def test_schedulers_of_a_tensor_lr(variant, name):
    """They write into the tensor, and a step takes the value that it finds there."""
    rate = torch.tensor(0.1)
    optimizer = variant.build(parameters(), lr=rate)
    end = run(optimizer, TORCHS[name](optimizer))
    assert optimizer.param_groups[0]["lr"] is rate
    plain = variant.build(parameters(), lr=0.1)
    same(end, run(plain, TORCHS[name](plain)), exact=False)
    return end


@pytest.mark.parametrize("name", ["SequentialLR", "OneCycleLR", "transformers: cosine"])
@check()
def test_schedulers_resume(variant, name):
    """Optimizer and scheduler are saved and loaded together, as Trainer does it."""
    optimizer = two_groups(variant, parameters())
    scheduler = MAKERS[name](optimizer)
    run(optimizer, scheduler, 3)
    params = trained(optimizer)
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    other = two_groups(variant, copies(params))
    again = MAKERS[name](other)
    other.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    end = run(optimizer, scheduler, 3, seed=3)
    same(run(other, again, 3, seed=3), end)
    return end


@check()
def test_schedulers_on_a_restored_group(variant):
    """A new scheduler goes on at ``last_epoch``, with the ``initial_lr`` that it finds in the groups."""
    optimizer = two_groups(variant, parameters())
    run(optimizer, lr_scheduler.ExponentialLR(optimizer, 0.9), 2)
    other = two_groups(variant, copies(trained(optimizer)))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [group["initial_lr"] for group in other.param_groups] == [0.1, 0.05]
    return run(other, lr_scheduler.ExponentialLR(other, 0.9, last_epoch=1), 2)
