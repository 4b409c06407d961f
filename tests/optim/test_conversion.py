"""States of torch's Adam, AdamW and SGD in gap optimizers, and back."""

import copy

import pytest
import torch

import gap_hf
from gap_hf.optim.conversion import to_torch

SHAPES = [(6, 5), (5,), (3,)]
ADAMS = [(torch.optim.AdamW, gap_hf.GapAdamW), (torch.optim.Adam, gap_hf.Adam)]
B = [(0.5, 0.999), (0.9, 0.999), (0.99, 0.99)]


def params() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def step(optimizer, ps, numbers) -> None:
    for t in numbers:
        generator = torch.Generator().manual_seed(t)
        for p in ps:
            p.grad = torch.randn(p.shape, generator=generator) + 0.5
        optimizer.step()


def trained(cls, steps: int = 7, **options):
    ps = params()
    optimizer = cls([{"params": ps[:2], "lr": 0.05}, {"params": ps[2:]}], lr=0.01, **options)
    step(optimizer, ps, range(steps))
    return ps, optimizer


@pytest.mark.parametrize("flags", [{"foreach": True}, {"fused": True}, {"foreach": False}])
@pytest.mark.parametrize(("torchs", "gaps"), ADAMS)
def test_the_candidate_with_adams_betas_goes_on_as_adam(torchs, gaps, flags, caplog):
    """Bit for bit where ``type`` is torch's own."""
    ps, adam = trained(torchs, betas=(0.9, 0.99), weight_decay=0.1, **flags)
    mine = [torch.nn.Parameter(p.detach().clone()) for p in ps]
    gap = gaps([{"params": mine[:2]}, {"params": mine[2:]}], betas=(0.9, 0.99), type="default", foreach=False)
    gap.load_state_dict(copy.deepcopy(adam.state_dict()))
    assert "the checkpoint is of torch.optim's adam: each candidate's first moment begins as torch's" in caplog.text
    assert [group["lr"] for group in gap.param_groups] == [0.05, 0.01]
    step(adam, ps, range(7, 12))
    step(gap, mine, range(7, 12))
    for p, q in zip(ps, mine, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise", "mix"])
@pytest.mark.parametrize(("torchs", "gaps"), ADAMS)
def test_every_candidate_begins_with_the_same_estimates(torchs, gaps, type_):
    _, adam = trained(torchs, betas=(0.9, 0.999))
    before = copy.deepcopy(adam.state_dict())
    _, gap = trained(gaps, steps=0, betas=[*B, (0.0, 0.999)], type=type_)
    gap.load_state_dict(adam.state_dict())
    for i, (state, theirs) in enumerate(zip(gap.state.values(), before["state"].values(), strict=True)):
        assert state["step"] == 7
        assert set(state) == {"step", "exp_avg_0", "exp_avg_1", "exp_avg_2", "exp_avg_sq_0", "exp_avg_sq_1"}, i
        mean, square = theirs["exp_avg"] / (1 - 0.9**7), theirs["exp_avg_sq"] / (1 - 0.999**7)
        for j, (beta1, _) in enumerate(B):
            torch.testing.assert_close(state[f"exp_avg_{j}"] / (1 - beta1**7), mean)
        for u, beta2 in enumerate((0.999, 0.99)):
            torch.testing.assert_close(state[f"exp_avg_sq_{u}"] / (1 - beta2**7), square)
        assert torch.equal(state["exp_avg_1"], theirs["exp_avg"]), "its own beta1: bit for bit"
    assert torch.equal(adam.state_dict()["state"][0]["exp_avg"], before["state"][0]["exp_avg"]), "torch's own is left"


def test_sgds_buffers_have_the_candidates_gain():
    _, sgd = trained(torch.optim.SGD, momentum=0.9)
    _, gap = trained(gap_hf.SGDM, steps=0, momentum=[0.0, 0.5, 0.9], type="switch")
    gap.load_state_dict(sgd.state_dict())
    for state, theirs in zip(gap.state.values(), sgd.state.values(), strict=True):
        torch.testing.assert_close(state["momentum_buffer_1"], theirs["momentum_buffer"] * 0.1 / 0.5)
        assert torch.equal(state["momentum_buffer_2"], theirs["momentum_buffer"])


@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise", "mix"])
def test_and_back(type_):
    """The moments of what was applied last, at one pair of betas for each group."""
    ps, gap = trained(gap_hf.GapAdamW, betas=B, type=type_, weight_decay=0.1)
    mine = [torch.nn.Parameter(p.detach().clone()) for p in ps]
    adamw = torch.optim.AdamW([{"params": mine[:2]}, {"params": mine[2:]}])
    adamw.load_state_dict(to_torch(gap.family, gap.state_dict()))
    for g, (group, theirs) in enumerate(zip(gap.param_groups, adamw.param_groups, strict=True)):
        choices = group["last_choice"]
        each = choices if isinstance(choices, list) else [choices] * len(group["params"])
        assert theirs["betas"] in [B[c] for c in each], g
        assert (theirs["lr"], theirs["weight_decay"]) == (group["lr"], 0.1)
        for p, q, c in zip(group["params"], theirs["params"], each, strict=True):
            found, t = adamw.state[q], 7
            assert float(found["step"]) == t
            torch.testing.assert_close(
                found["exp_avg"] / (1 - theirs["betas"][0] ** t), gap.state[p][f"exp_avg_{c}"] / (1 - B[c][0] ** t)
            )
    step(adamw, mine, range(7, 9))


def test_a_single_candidate_goes_there_and_back_bit_for_bit():
    for torchs, gaps, options in (
        (torch.optim.AdamW, gap_hf.GapAdamW, {"betas": (0.8, 0.99)}),
        (torch.optim.SGD, gap_hf.SGDM, {"momentum": 0.8}),
    ):
        _, there = trained(torchs, **options)
        _, gap = trained(gaps, steps=0, type="default", **options)
        gap.load_state_dict(copy.deepcopy(there.state_dict()))
        _, back = trained(torchs, steps=0, **options)
        back.load_state_dict(to_torch(gap.family, gap.state_dict()))
        for a, b in zip(there.state.values(), back.state.values(), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a if name != "step")


def test_a_state_of_an_older_torch():
    """Before 2.7 the groups of Adam and AdamW have no decoupled_weight_decay."""
    _, adamw = trained(torch.optim.AdamW)
    saved = adamw.state_dict()
    for group in saved["param_groups"]:
        group.pop("decoupled_weight_decay", None)
    _, gap = trained(gap_hf.GapAdamW, steps=0, betas=B)
    gap.load_state_dict(saved)
    assert all("exp_avg_1" in found for found in gap.state_dict()["state"].values())


def test_amsgrad_is_refused():
    _, adam = trained(torch.optim.AdamW, amsgrad=True)
    _, gap = trained(gap_hf.GapAdamW, steps=2, betas=B)
    before = copy.deepcopy(gap.state_dict())
    with pytest.raises(ValueError, match="amsgrad=True, whose maximum has no counterpart"):
        gap.load_state_dict(adam.state_dict())
    after = gap.state_dict()
    assert all(torch.equal(t, after["state"][k][n]) for k, found in before["state"].items() for n, t in found.items())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda saved: saved["state"][1].pop("exp_avg"), r"group 0 .* is damaged \(KeyError: 'exp_avg'\)"),
        (lambda saved: saved["state"][2].update(step="seven"), "invalid literal"),
        (lambda saved: saved["state"][2].update(step=-1.0), "expected the number of its steps"),
        (lambda saved: saved["state"][0].update(exp_avg=3), "group 0 .* is damaged"),
        (lambda saved: saved["param_groups"][1].update(betas=(0.9, float("nan"))), "out of range"),
        (lambda saved: saved["param_groups"][1].update(betas=None), "group 1 .* is damaged"),
        (lambda saved: saved["state"][0].update(exp_avg=torch.zeros(2)), "another model"),
    ],
)
def test_damage_is_refused_and_nothing_changes(damage, said):
    _, adam = trained(torch.optim.AdamW)
    _, gap = trained(gap_hf.GapAdamW, steps=2, betas=B)
    before, saved = copy.deepcopy(gap.state_dict()), copy.deepcopy(adam.state_dict())
    damage(saved)
    with pytest.raises(ValueError, match=said):
        gap.load_state_dict(saved)
    after = gap.state_dict()
    assert all(torch.equal(t, after["state"][k][n]) for k, found in before["state"].items() for n, t in found.items())


def test_families_that_torch_does_not_have():
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(TypeError, match=r"torch.optim has no optimizer of the adams family"):
        to_torch(gap_hf.Adams([p]).family, {})
