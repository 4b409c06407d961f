"""Mixes and controls, on numbers small enough to check by hand; ``test_twins.py`` has long runs."""

import copy
import math

import pytest
import torch

import gap_hf
from gap_hf.choices import read_choices
from gap_hf.optim.rules import TYPES

from .test_choice import param, step

BETAS = [(0.5, 0.999), (0.9, 0.999), (0.99, 0.999)]
ALL = [name for name in TYPES if name != "default"]


def weights(optimizer):
    return optimizer.param_groups[0]["last_weights"]


def gradients(steps: int, mean: float = 0.5, seed: int = 0) -> list[list[float]]:
    generator = torch.Generator().manual_seed(seed)
    return (mean + torch.randn(steps, 3, generator=generator)).tolist()


# ---------------------------------------------------------------- mixes
@pytest.mark.parametrize("foreach", [None, True, False])
def test_qhm_is_a_mix_of_the_gradient_and_one_memory(foreach):
    """Ma and Yarats (arXiv 1810.06801): the step is lr * ((1 - nu) g + nu m), m the average; nothing else is kept."""
    p, q = param(1.0, -2.0, 0.5), torch.tensor([1.0, -2.0, 0.5])
    optimizer = gap_hf.SGDM([p], lr=0.1, type="mix", momentum=[0.0, 0.9], weights=[0.3, 0.7], foreach=foreach)
    buffer = torch.zeros(3)
    for t, g in enumerate(map(torch.tensor, gradients(20))):
        step(optimizer, g.tolist())
        buffer = g.clone() if t == 0 else 0.9 * buffer + g
        q -= 0.1 * (0.3 * 10 * g + 0.7 * buffer)
        torch.testing.assert_close(p.detach(), q, rtol=1e-5, atol=1e-6)
    assert list(optimizer.state[p]) == ["step", "momentum_buffer_1"]
    assert optimizer.param_groups[0]["last_choice"] == 1
    assert weights(optimizer) == pytest.approx([0.3, 0.7])


def test_adams_mix_has_the_state_of_adamw():
    p, q = param(1.0, -2.0, 0.5), torch.tensor([1.0, -2.0, 0.5])
    optimizer = gap_hf.GapAdamW([p], lr=0.1, type="mix", weight_decay=0.01)
    m, v = torch.zeros(3), torch.zeros(3)
    for t, g in enumerate(map(torch.tensor, gradients(20)), 1):
        step(optimizer, g.tolist())
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        q = q * (1 - 0.1 * 0.01) - 0.1 * (0.3 * g + 0.7 * m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        torch.testing.assert_close(p.detach(), q, rtol=1e-5, atol=1e-6)
    assert list(optimizer.state[p]) == ["step", "exp_avg_1", "exp_avg_sq_0"]


def test_weights_are_in_proportion_to_one_over_the_filters_norm_by_default():
    optimizer = gap_hf.Adam([param(0.0)], betas=BETAS, type="mix")
    norms = [math.sqrt(1 - beta1**2) for beta1, _ in BETAS]
    assert weights(optimizer) == pytest.approx([norm / sum(norms) for norm in norms])
    assert weights(optimizer) == pytest.approx([0.60, 0.30, 0.10], abs=0.005)
    assert optimizer.param_groups[0]["last_choice"] == 0


def test_weights_by_score():
    p, q = param(0.0), param(0.0)
    optimizer = gap_hf.SGDM([p, q], momentum=[0.0, 0.6], type="mix", weights="score")
    step(optimizer, [2.0], [1.0])
    # at the first step both buffers are the gradient: J = 5 and 0.8 * 5
    assert weights(optimizer) == pytest.approx([1 / 1.8, 0.8 / 1.8])
    step(optimizer, [-1.0], [1.0])  # momentum 0.6 scores 0.8 * (-1 * (1.2 - 1) + 1 * (0.6 + 1)) = 1.12, no momentum 2
    assert weights(optimizer) == pytest.approx([2 / 3.12, 1.12 / 3.12])
    each = gap_hf.SGDM([p, q], momentum=[0.0, 0.6], type="mix_parameter_wise", weights="score")
    step(each, [2.0], [1.0])
    step(each, [-1.0], None)  # J = 1 and 0.8 * -1 * 0.2 < 0
    assert weights(each)[0] == pytest.approx([1.0, 0.0])
    assert weights(each)[1] == pytest.approx([1 / 1.8, 0.8 / 1.8]), "without a gradient they stay"
    assert each.param_groups[0]["last_choice"] == [0, 0]


def test_without_a_positive_score_the_constant_weights_are_used_and_the_step_counts_as_negative():
    p = param(0.0)
    optimizer = gap_hf.SGDM([p], momentum=[0.9, 0.99], type="mix", weights="score", hysteresis_threshold=2,
                            soft_reset=0.5)  # fmt: skip
    constant = weights(optimizer)
    for _ in range(5):
        step(optimizer, [1.0])
    assert weights(optimizer) != pytest.approx(constant)
    step(optimizer, [-0.1])
    assert weights(optimizer) == pytest.approx(constant)
    assert optimizer.last_resets == ()
    step(optimizer, [-0.1])
    assert optimizer.last_resets == ((0, 0),)


def test_a_score_that_is_not_finite_leaves_the_weights():
    p = param(0.0)
    optimizer = gap_hf.SGDM([p], momentum=[0.5, 0.9], type="mix", weights="score")
    for g in (1.0, 2.0):
        step(optimizer, [g])
    before = weights(optimizer)
    step(optimizer, [math.nan])
    assert weights(optimizer) == before


def test_J_ema_averages_the_scores_behind_the_weights():
    p = param(0.0)
    optimizer = gap_hf.SGDM([p], momentum=[0.0, 0.6], type="mix", weights="score", J_ema=0.9)
    for g in (1.0, -1.0, 2.0, 2.0):
        step(optimizer, [g])
        positive = [max(J, 0.0) for J in optimizer.param_groups[0]["J_bar"]]
        assert weights(optimizer) == pytest.approx([J / sum(positive) for J in positive])


@pytest.mark.parametrize(("name", "slow"), [("mix", False), ("switch", "dc"), ("switch_parameter_wise", "dc")])
@pytest.mark.parametrize("momenta", [[0.5], [0.0, 0.5], [0.9], [0.99, 0.5], [0.95]])
def test_all_candidates_of_sgdm_have_the_same_gain(name, slow, momenta):
    """Under a constant gradient every one of them ends at the speed of momentum 0.9, also with nesterov."""
    for nesterov in (False, True):
        if nesterov and 0.0 in momenta:
            continue
        p = param(0.0)
        optimizer = gap_hf.SGDM([p], lr=0.1, momentum=momenta, type=name, lr_modulation=slow, nesterov=nesterov)
        for _ in range(1200 if 0.99 in momenta else 200):
            before = p.item()
            step(optimizer, [0.01])
        assert before - p.item() == pytest.approx(0.1 * 0.01 / (1 - 0.9), rel=1e-3)


def test_constant_weights_change_with_the_option():
    p = param(0.0)
    optimizer = gap_hf.Adam([p], betas=BETAS, type="mix")
    step(optimizer, [1.0])
    for group in optimizer.param_groups:
        group["weights"] = [0.0, 0.0, 2.0]
    step(optimizer, [1.0])
    assert weights(optimizer) == [0.0, 0.0, 1.0]
    assert optimizer.param_groups[0]["last_choice"] == 2


# ---------------------------------------------------------------- controls
def test_first_is_always_the_first():
    p, q = param(0.0, 0.0, 0.0), param(0.0, 0.0, 0.0)
    optimizer = gap_hf.Adam([p], betas=list(reversed(BETAS)), type="first", hysteresis_threshold=1000)
    fixed = torch.optim.Adam([q], betas=BETAS[-1])
    for g in gradients(60):
        step(optimizer, g)
        step(fixed, g)
        assert optimizer.param_groups[0]["last_choice"] == 0
        assert optimizer.last_scores is not None, "everything else is as in the paper's rule"
    torch.testing.assert_close(p, q)


@pytest.mark.parametrize("seed", [0, 1])
def test_draws_are_uniform_and_independent(seed):
    params = [param(0.0) for _ in range(40)]
    one = gap_hf.Adam(params, betas=BETAS, type="random", seed=seed)
    each = gap_hf.Adam(params, betas=BETAS, type="random_parameter_wise", seed=seed)
    drawn = []
    for _ in range(200):
        step(one, *[[1.0]] * 40)
        step(each, *[[1.0]] * 40)
        drawn.append([one.param_groups[0]["last_choice"], *each.param_groups[0]["last_choice"]])
    table = torch.tensor(drawn)
    for k in range(3):
        assert (table[:, 1:] == k).double().mean() == pytest.approx(1 / 3, abs=0.02)
        assert (table[:, 0] == k).double().mean() == pytest.approx(1 / 3, abs=0.11)
    stays = (table[1:, 1:] == table[:-1, 1:]).double().mean()
    alike = (table[:, 1:-1] == table[:, 2:]).double().mean()
    assert [stays, alike] == pytest.approx([1 / 3, 1 / 3], abs=0.02), "neither steps nor parameters hang together"


def test_another_seed_draws_otherwise():
    drawn = []
    for seed in (0, 1):
        optimizer = gap_hf.Adam([param(0.0)], betas=BETAS, type="random", seed=seed)
        mine = []
        for _ in range(50):
            step(optimizer, [1.0])
            mine.append(optimizer.param_groups[0]["last_choice"])
        drawn.append(mine)
    assert drawn[0] != drawn[1]


# ---------------------------------------------------------------- all of them
@pytest.mark.parametrize("type_", ALL)
@pytest.mark.parametrize("by_score", [False, True])
def test_a_resumed_run_goes_on_bit_for_bit(type_, by_score):
    options = {"weights": "score"} if by_score and "mix" in type_ else {}
    make = lambda: gap_hf.Adam([param(1.0, 2.0, 3.0)], lr=0.1, betas=BETAS, type=type_, **options)
    whole, first = make(), make()
    for g in gradients(15):
        step(whole, g)
        step(first, g)
    rest = make()
    with torch.no_grad():
        rest.param_groups[0]["params"][0].copy_(first.param_groups[0]["params"][0])
    rest.load_state_dict(copy.deepcopy(first.state_dict()))
    for g in gradients(15, seed=1):
        step(whole, g)
        step(rest, g)
        for key in ("last_choice", "last_weights", "draws"):
            assert whole.param_groups[0].get(key) == rest.param_groups[0].get(key)
    assert torch.equal(whole.param_groups[0]["params"][0], rest.param_groups[0]["params"][0])


@pytest.mark.parametrize("type_", ALL)
def test_a_buffer_that_a_candidate_without_memory_once_had_is_left_out(type_):
    """As versions before 0.3.0 saved it."""
    p = param(1.0, 2.0)
    optimizer = gap_hf.Adam([p], betas=[(0.0, 0.999), (0.9, 0.999)], type=type_)
    step(optimizer, [1.0, 2.0])
    saved = optimizer.state_dict()
    saved["state"][0]["exp_avg_0"] = torch.tensor([1.0, 2.0])
    optimizer.load_state_dict(saved)
    assert set(optimizer.state[p]) == {"step", "exp_avg_1", "exp_avg_sq_0"}
    saved["state"][0]["exp_avg_2"] = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="exp_avg_2"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "switch", "weights": [1, 2, 3]}, "weights=.* is for the types that mix"),
        ({"type": "mix", "weights": [1, 2]}, "lists 2 weights for 3 candidates"),
        ({"type": "mix", "weights": [0, 0, 0]}, "expected a list of numbers >= 0, not all 0, or 'score'"),
        ({"type": "mix", "weights": [1, -1, 3]}, "expected a list of numbers >= 0"),
        ({"type": "mix", "weights": [1, math.inf, 3]}, "expected a list of numbers >= 0"),
        ({"type": "mix", "weights": "scores"}, "expected a list of numbers >= 0, not all 0, or 'score'"),
        ({"type": "mix", "lr_modulation": True}, "lr_modulation=True is for types that pick one candidate"),
        ({"type": "mix", "lr_modulation": "power"}, "lr_modulation='power' is for types that pick"),
        ({"type": "switch", "lr_modulation": "rms"}, "expected False, 'power', 'dc' or True"),
        ({"type": "mix_parameter_wise", "weights": "score", "J_ema": 0.5}, "set J_ema=0 or type='mix'"),
        ({"type": "random_parameter_wise", "J_ema": 0.5}, "set J_ema=0 or type='random'"),
        ({"type": "random", "seed": -1}, "expected a whole number >= 0"),
        ({"type": "mixed"}, "expected one of 'default', 'switch'"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message.replace("'", ".")):
        gap_hf.Adam([param(0.0)], betas=BETAS, **options)


def test_groups_agree_about_the_weights_of_one_mix():
    groups = lambda: [{"params": [param(0.0)]}, {"params": [param(0.0)], "weights": [1, 1, 2]}]
    with pytest.raises(ValueError, match="makes one choice for all groups, so weights must agree"):
        gap_hf.Adam(groups(), betas=BETAS, type="mix")
    gap_hf.Adam(groups(), betas=BETAS, type="mix_parameter_wise")


def test_weights_of_each_parameter_that_can_only_be_the_same_are_pointed_out(caplog):
    gap_hf.Adam([param(0.0)], betas=BETAS, type="mix_parameter_wise")
    assert "weights='score'" in caplog.text


def test_groups_of_one_optimizer_may_weigh_in_different_ways(tmp_path):
    """Where each parameter has its own weights: by the scores in one group, constant in the other."""
    model = torch.nn.Linear(2, 1)
    groups = [{"params": [model.weight], "weights": "score"}, {"params": [model.bias], "weights": [1, 1, 2]}]
    optimizer = gap_hf.Adam(groups, betas=BETAS, type="mix_parameter_wise")
    with gap_hf.Recorder(optimizer, model, tmp_path) as recorder:
        for t in range(1, 4):
            step(optimizer, [1.0, -2.0], [0.5])
            recorder.add(t)
        assert recorder.summary()["gap/weight_0.5"] > 0
    assert optimizer.decision().weights[1].tolist() == [[0.25, 0.25, 0.5]]
    recorded = read_choices(tmp_path).weights
    assert recorded.shape == (3, 2, 3)
    assert recorded[:, 1].tolist() == pytest.approx([pytest.approx([0.25, 0.25, 0.5], abs=0.02)] * 3)
