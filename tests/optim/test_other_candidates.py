"""States with other candidates, another number of them or another type, converted where that is asked for."""

import copy
import itertools

import pytest
import torch

import gap_hf

from .test_conversion import step, trained

OLD = [(0.5, 0.999), (0.9, 0.999), (0.99, 0.99)]
NEW = [(0.9, 0.999), (0.8, 0.99), (0.5, 0.95)]
TYPES = ["switch", "switch_parameter_wise", "mix", "default"]


def listed(pairs, type_):
    """``type='default'`` has just one."""
    return pairs[:1] if type_ == "default" else pairs


def last_choices(saved) -> list[int]:
    """One for each parameter."""
    found = []
    for group in saved["param_groups"]:
        choices = group["last_choice"]
        found += choices if isinstance(choices, list) else [choices] * len(group["params"])
    return found


@pytest.mark.parametrize(("of", "into"), [pair for pair in itertools.product(TYPES, TYPES) if pair != ("mix", "mix")])
def test_adams_moments_go_on(of, into, caplog):
    old, new = listed(OLD, of), listed(NEW, into)
    _, before = trained(gap_hf.GapAdamW, betas=old, type=of)
    saved = copy.deepcopy(before.state_dict())
    ps, after = trained(gap_hf.GapAdamW, steps=0, betas=new, type=into)
    after.load_state_dict(gap_hf.convert_state_dict(after, before.state_dict()))
    theirs, mine = (f"type={type_!r} and betas={pairs!r}" for type_, pairs in ((of, old), (into, new)))
    assert f"group 1 of the checkpoint has {theirs}, this run {mine}: candidates that were there go on" in caplog.text
    assert [(g["type"], g["lr"], g["K"]) for g in after.param_groups] == [
        (into, 0.05, len(new)),
        (into, 0.01, len(new)),
    ]
    firsts, seconds = [pair[0] for pair in old], list(dict.fromkeys(pair[1] for pair in old))
    for state, theirs, j in zip(after.state.values(), saved["state"].values(), last_choices(saved), strict=True):
        assert state["step"] == theirs["step"] == 7
        for k, (beta1, _) in enumerate(new):
            if beta1 in firsts:
                assert torch.equal(state[f"exp_avg_{k}"], theirs[f"exp_avg_{firsts.index(beta1)}"])
            else:
                mean = theirs[f"exp_avg_{j}"] / (1 - old[j][0] ** 7)
                torch.testing.assert_close(state[f"exp_avg_{k}"] / (1 - beta1**7), mean)
        for u, beta2 in enumerate(dict.fromkeys(pair[1] for pair in new)):
            if beta2 in seconds:
                assert torch.equal(state[f"exp_avg_sq_{u}"], theirs[f"exp_avg_sq_{seconds.index(beta2)}"])
            else:
                square = theirs[f"exp_avg_sq_{seconds.index(old[j][1])}"] / (1 - old[j][1] ** 7)
                torch.testing.assert_close(state[f"exp_avg_sq_{u}"] / (1 - beta2**7), square)
    step(after, ps, range(7, 9))


@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise", "mix"])
def test_sgds_buffers_go_on(type_):
    """The candidate of 0 keeps none, so another one's is taken where it was applied last."""
    _, before = trained(gap_hf.SGDM, momentum=[0.0, 0.5, 0.9], type=type_)
    saved = copy.deepcopy(before.state_dict())
    ps, after = trained(gap_hf.SGDM, steps=0, momentum=[0.9, 0.99], type=type_)
    after.load_state_dict(gap_hf.convert_state_dict(after, before.state_dict()))
    for state, theirs, j in zip(after.state.values(), saved["state"].values(), last_choices(saved), strict=True):
        assert torch.equal(state["momentum_buffer_0"], theirs["momentum_buffer_2"])
        donor, gain = (1, 0.5) if j == 1 else (2, 0.1)
        torch.testing.assert_close(state["momentum_buffer_1"], theirs[f"momentum_buffer_{donor}"] * gain / 0.01)
    step(after, ps, range(7, 9))


def test_what_fits_is_left_alone(caplog):
    _, before = trained(gap_hf.GapAdamW, betas=OLD, type="switch")
    _, after = trained(gap_hf.GapAdamW, steps=0, betas=OLD, type="switch")
    state = before.state_dict()
    assert gap_hf.convert_state_dict(after, state) == state
    _, adamw = trained(torch.optim.AdamW)
    state = adamw.state_dict()
    assert gap_hf.convert_state_dict(after, state)["param_groups"] == state["param_groups"]  # when it is loaded
    assert not caplog.text


def test_without_being_asked_the_checkpoints_candidates_go_on(caplog):
    _, before = trained(gap_hf.GapAdamW, betas=OLD, type="switch")
    _, after = trained(gap_hf.GapAdamW, steps=0, betas=NEW, type="switch")
    after.load_state_dict(before.state_dict())
    assert [group["betas"] for group in after.param_groups] == [OLD, OLD]
    assert "betas" in caplog.text


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda saved: saved["state"][1].pop("exp_avg_0"), "KeyError: 'exp_avg_0'"),
        (lambda saved: saved["param_groups"][0].pop("betas"), "KeyError: 'betas'"),
        (lambda saved: saved["param_groups"].pop(), "it has 1 parameter groups, not 2"),
        (lambda saved: saved.pop("state"), "KeyError: 'state'"),
        (lambda saved: saved["state"][0].update(step="seven"), "invalid literal"),
        (
            lambda saved: saved["param_groups"][0].update(last_choice=[0, 1, 0]),
            "hold 3 parameters with different choices",
        ),
    ],
)
def test_damage_is_refused(damage, said):
    _, before = trained(gap_hf.GapAdamW, betas=[(0.5, 0.999)], type="switch_parameter_wise")
    _, after = trained(gap_hf.GapAdamW, steps=0, betas=NEW, type="switch")
    saved = copy.deepcopy(before.state_dict())
    damage(saved)
    with pytest.raises(ValueError, match=said):
        gap_hf.convert_state_dict(after, saved)


def test_another_kind_of_optimizer():
    ps, adamw = trained(torch.optim.AdamW)
    with pytest.raises(TypeError, match="AdamW is, or holds, no gap optimizer"):
        gap_hf.convert_state_dict(adamw, {})
    with pytest.raises(TypeError, match="a state of the adams family can't be converted to other candidates"):
        gap_hf.convert_state_dict(gap_hf.Adams(ps), {})
    _, sgdm = trained(gap_hf.SGDM, momentum=[0.5, 0.9], type="switch")
    _, gap = trained(gap_hf.GapAdamW, steps=0, betas=NEW, type="switch")
    with pytest.raises(ValueError, match=r"converted to type='switch' and betas=.*: it is of another optimizer"):
        gap_hf.convert_state_dict(gap, sgdm.state_dict())
