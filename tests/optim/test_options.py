"""Bad input is refused with a message that names it."""

import pytest
import torch

import gap_hf


def params() -> list[torch.Tensor]:
    return [torch.zeros(3, requires_grad=True)]


@pytest.mark.parametrize(
    "betas",
    [(1.0, 0.9), (-0.1, 0.9), (0.9, 1.0), [(0.9, 0.999), (0.5, 1.5)], [], [()], [(0.9,)], [(0.9, 0.99, 0.999)],
     [(0.9, 0.99), 0.5], 0.9, "0.9", [(0.9, "x")], None, [(0.9, 0.99), (0.8,)]],
)  # fmt: skip
def test_betas(betas):
    with pytest.raises(ValueError, match="betas="):
        gap_hf.Adam(params(), betas=betas, type="switch")


@pytest.mark.parametrize("momentum", [1.0, -0.1, [0.9, 1.0], [], [0.9, (0.5, 0.9)], "0.9", [None]])
def test_momentum(momentum):
    with pytest.raises(ValueError, match="momentum="):
        gap_hf.SGDM(params(), momentum=momentum, type="switch")


@pytest.mark.parametrize(
    ("option", "value"),
    [("lr", -1.0), ("weight_decay", -0.1), ("eps", -1e-8), ("J_ema", 1.0), ("J_ema", -0.1), ("soft_reset", 1.5),
     ("soft_reset", -0.1), ("hysteresis_threshold", 0), ("hysteresis_threshold", 2.5), ("type", "swich"),
     ("second_order_momentum_reset_mode", "cube")],
)  # fmt: skip
def test_options(option, value):
    with pytest.raises(ValueError, match=option):
        gap_hf.Adam(params(), betas=[(0.5, 0.9), (0.9, 0.9)], **{"type": "switch", option: value})


def test_J_ema_needs_the_global_score():
    with pytest.raises(ValueError, match="J_ema.*switch_parameter_wise"):
        gap_hf.Adam(params(), betas=[(0.5, 0.9)], type="switch_parameter_wise", J_ema=0.5)
    with pytest.raises(ValueError, match="J_ema.*switch_parameter_wise"):
        gap_hf.SGDM(params(), momentum=[0.5], type="switch_parameter_wise", J_ema=0.5)


def test_default_takes_one_candidate():
    with pytest.raises(ValueError, match="takes one candidate, got 2"):
        gap_hf.Adam(params(), betas=[(0.5, 0.9), (0.9, 0.9)])


@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_as_in_torch(options):
    with pytest.raises(ValueError, match="nesterov"):
        gap_hf.SGDM(params(), nesterov=True, **options)


def test_switch_groups_must_agree():
    groups = [{"params": params()}, {"params": params(), "betas": [(0.5, 0.9)]}]
    with pytest.raises(ValueError, match="2 and 1 candidates"):
        gap_hf.Adam(groups, betas=[(0.5, 0.9), (0.9, 0.9)], type="switch")
    groups = [{"params": params()}, {"params": params(), "J_ema": 0.5}]
    with pytest.raises(ValueError, match="J_ema must agree"):
        gap_hf.Adam(groups, betas=[(0.5, 0.9), (0.9, 0.9)], type="switch")
    groups = [{"params": params()}, {"params": params(), "type": "switch_parameter_wise"}]
    with pytest.raises(ValueError, match="share one type"):
        gap_hf.Adam(groups, betas=[(0.5, 0.9), (0.9, 0.9)], type="switch")


def test_a_refused_group_leaves_the_optimizer_as_it_was():
    optimizer = gap_hf.Adam(params(), betas=[(0.5, 0.9), (0.9, 0.9)], type="switch")
    for bad in ({"params": params(), "betas": [(2.0, 0.9)]}, {"params": [torch.zeros(2, dtype=torch.complex64)]}):
        with pytest.raises(ValueError, match="betas|complex"):
            optimizer.add_param_group(bad)
        assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("type_", ["default", "switch", "switch_parameter_wise"])
def test_sparse_gradients(type_):
    table = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = gap_hf.Adam(table.parameters(), type=type_)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"sparse.*sparse=False"):
        optimizer.step()


@pytest.mark.parametrize("cls", [gap_hf.Adam, gap_hf.SGDM])
def test_complex_parameters(cls):
    with pytest.raises(ValueError, match=r"real parameters.*\(2,\) is complex"):
        cls([torch.zeros(2, dtype=torch.complex64, requires_grad=True)])


def test_a_scheduler_that_cycles_momentum_is_told_so():
    optimizer = gap_hf.Adam(params(), betas=[(0.5, 0.9), (0.9, 0.9)], type="switch")
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=10)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    with pytest.raises(ValueError, match="cycle_momentum=False"):
        optimizer.step()


# ---------------------------------------------------------------- layouts in which the scores would be wrong
def test_flattened_parameters_are_refused():
    """What a backend does that gap_hf does not know: one flat partition in place of the group's parameters."""
    optimizer = gap_hf.Adam([torch.zeros(3, requires_grad=True), torch.zeros(5, requires_grad=True)], type="switch")
    flat = torch.zeros(4, requires_grad=True)
    flat.grad = torch.ones(4)
    optimizer.param_groups[0]["params"] = [flat]
    with pytest.raises(RuntimeError, match="replaced.*given 2 parameters and now holds 1"):
        optimizer.step()
