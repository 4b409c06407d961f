"""Each rule of the algorithm on numbers small enough to check by hand."""

from math import sqrt

import pytest
import torch

import gap_hf
from gap_hf.optim.choice import choose
from gap_hf.optim.rules.best import Best, best_candidate

NAN, INF = float("nan"), float("inf")


def param(*values: float) -> torch.Tensor:
    return torch.tensor(values, requires_grad=True)


def step(optimizer, *grads) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else torch.tensor(g, dtype=p.dtype).reshape(p.shape)
    optimizer.step()


def choice(optimizer):
    return optimizer.param_groups[0]["last_choice"]


# ---------------------------------------------------------------- argmax
@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1.0, 2.0], 1),
        ([2.0, 2.0], 0),
        ([2.0, 2.0 + 1e-6], 0),  # within 1e-6 of the largest: a tie, the lowest index wins
        ([2.0, 2.0 + 1e-5], 1),
        ([-2.0 - 1e-6, -2.0], 0),
        ([-2.0 - 1e-5, -2.0], 1),
        ([0.0, 0.0], 0),
        ([-1.0, 0.0], 1),
        ([1e300, 1.0], 0),
        ([1.0, 3.0, 3.0, 2.0], 1),
    ],
)
def test_best_candidate(scores, expected):
    scores = torch.tensor(scores, dtype=torch.float64)
    assert best_candidate(scores).item() == expected


def test_negative_steps_are_counted_and_restart():
    J = torch.tensor([[-1.0, -5.0], [1.0, -1.0], [-1.0, -2.0], [NAN, -1.0], [-1.0, -2.0]], dtype=torch.float64)
    counts = J.isfinite().all(dim=-1) & torch.tensor([True, True, True, True, False])
    kept = {"last_choice": torch.tensor([1, 1, 0, 1, 1]), "negative_steps": torch.tensor([2, 2, 0, 2, 2])}
    new = choose(Best({}, ()), J, J, counts, kept, torch.arange(5), threshold=3)
    assert new.kept["last_choice"].tolist() == [0, 0, 0, 1, 1]
    assert new.kept["negative_steps"].tolist() == [0, 0, 1, 2, 2]
    assert new.reset.tolist() == [True, False, False, False, False]


# ---------------------------------------------------------------- scores
def test_adam_score_by_hand():
    p = param(1.0, 2.0)
    optimizer = gap_hf.Adam([p], type="switch", betas=[(0.5, 0.9), (0.9, 0.9)], eps=0.0)
    step(optimizer, [3.0, -4.0])
    # first step: vhat = g^2, so r = 1/|g| and g r m_j / (1-b1_j) = |g|
    W = (1 / 3 + 1 / 4) / 2
    expected = [sqrt(1 - b1**2) / sqrt(W) * 7.0 for b1 in (0.5, 0.9)]
    assert optimizer.last_scores.tolist() == pytest.approx(expected, rel=1e-6)


def test_sgdm_score_by_hand():
    p = param(1.0, 2.0)
    optimizer = gap_hf.SGDM([p], type="switch", momentum=[0.0, 0.6], dampening=0.5)
    step(optimizer, [1.0, 2.0])
    assert optimizer.last_scores.tolist() == pytest.approx([5.0, 0.8 * 5.0])
    step(optimizer, [2.0, 1.0])  # buf = m*(1,2) + 0.5*(2,1): (1, 0.5) and (1.6, 1.7)
    assert optimizer.last_scores.tolist() == pytest.approx([2.5, 0.8 * 4.9])
    assert choice(optimizer) == 1
    assert p.tolist() == pytest.approx([1 - 1e-3 - 1.6e-3, 2 - 2e-3 - 1.7e-3])


def test_l2_decay_enters_the_score_and_decoupled_decay_does_not():
    for decoupled, g in ((False, 1.5), (True, 1.0)):
        p = param(5.0)
        optimizer = gap_hf.Adam([p], type="switch", betas=[(0.0, 0.0)], eps=1.0, weight_decay=0.1,
                                decoupled_weight_decay=decoupled)  # fmt: skip
        step(optimizer, [1.0])
        r = 1 / (g + 1)
        assert optimizer.last_scores.tolist() == pytest.approx([g * r * g / sqrt(r)])


def test_switch_sums_over_all_groups_and_parameter_wise_does_not():
    """One parameter whose gradient keeps its sign and a larger one whose gradient alternates."""
    choices = {}
    for type_ in ("switch", "switch_parameter_wise"):
        steady, noisy = param(0.0), param(0.0)
        groups = [{"params": [steady]}, {"params": [noisy]}]
        optimizer = gap_hf.SGDM(groups, type=type_, momentum=[0.0, 0.9])
        for t in range(20):
            step(optimizer, [1.0], [100.0 * (-1) ** t])
        choices[type_] = [group["last_choice"] for group in optimizer.param_groups]
    assert choices == {"switch": [0, 0], "switch_parameter_wise": [[1], [0]]}


def test_J_ema_averages_from_zero():
    p = param(0.0)
    optimizer = gap_hf.SGDM([p], type="switch", momentum=[0.0, 0.6], J_ema=0.9)
    J_bar = [0.0, 0.0]
    for g in (1.0, -1.0, 2.0, 2.0, 2.0):
        step(optimizer, [g])
        J_bar = [0.9 * a + 0.1 * b for a, b in zip(J_bar, optimizer.last_scores.tolist(), strict=True)]
        assert optimizer.param_groups[0]["J_bar"] == pytest.approx(J_bar, rel=1e-12)
        assert choice(optimizer) == max((0, 1), key=lambda j: J_bar[j])


# ---------------------------------------------------------------- hysteresis
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
@pytest.mark.parametrize(("mode", "v_factor"), [("none", 1.0), ("same", 0.5), ("square", 0.25)])
def test_soft_reset_after_threshold_steps_against_the_gradient(type_, mode, v_factor):
    p = param(0.0)
    optimizer = gap_hf.Adam([p], type=type_, betas=[(0.9, 0.999), (0.99, 0.9)], hysteresis_threshold=2, soft_reset=0.5,
                            second_order_momentum_reset_mode=mode)  # fmt: skip
    torchs = torch.optim.Adam([q := param(0.0)], betas=(0.9, 0.999))
    for _ in range(20):
        step(optimizer, [1.0])
    step(optimizer, [-0.1])
    assert optimizer.last_resets == ()
    before = {k: v.clone() for k, v in optimizer.state[p].items()}
    value = p.item()
    step(optimizer, [-0.1])
    assert optimizer.last_resets == ((0, 0),)
    state = optimizer.state[p]
    for j, b1 in enumerate((0.9, 0.99)):
        moved = before[f"exp_avg_{j}"] * b1 + (1 - b1) * -0.1
        assert state[f"exp_avg_{j}"].item() == pytest.approx(0.5 * moved.item(), rel=1e-5)
    for u, b2 in enumerate((0.999, 0.9)):
        moved = before[f"exp_avg_sq_{u}"] * b2 + (1 - b2) * 0.01
        assert state[f"exp_avg_sq_{u}"].item() == pytest.approx(v_factor * moved.item(), rel=1e-5)
    # the update of that step came before the reset
    for g in [1.0] * 20 + [-0.1, -0.1]:
        q.grad = torch.tensor([g])
        last = q.item()
        torchs.step()
    if optimizer.param_groups[0]["last_choice"] in (0, [0]):
        assert p.item() - value == pytest.approx(q.item() - last, rel=1e-3)
    step(optimizer, [-0.1])
    assert optimizer.last_resets == (), "the count starts again"


def test_a_switch_reset_covers_parameters_without_a_gradient():
    p, q = param(0.0), param(0.0)
    optimizer = gap_hf.SGDM([{"params": [p]}, {"params": [q]}], type="switch", momentum=[0.9, 0.99],
                            hysteresis_threshold=1, soft_reset=0.5)  # fmt: skip
    for _ in range(5):
        step(optimizer, [1.0], [1.0])
    before = optimizer.state[q]["momentum_buffer_0"].clone()
    step(optimizer, [-0.1], None)
    assert optimizer.last_resets == ((0, 0), (1, 0))
    assert torch.equal(optimizer.state[q]["momentum_buffer_0"], before * 0.5)


def test_hysteresis_watches_the_raw_score_of_the_applied_candidate():
    """With a slow J_ema the averaged score stays positive; the reset must come all the same."""
    p = param(0.0)
    optimizer = gap_hf.SGDM([p], type="switch", momentum=[0.9], J_ema=0.99, hysteresis_threshold=3)
    for _ in range(10):
        step(optimizer, [1.0])
    resets = []
    for _ in range(3):
        step(optimizer, [-0.01])
        resets.append(bool(optimizer.last_resets))
    assert optimizer.param_groups[0]["J_bar"][0] > 0
    assert resets == [False, False, True]


# ---------------------------------------------------------------- lr_modulation
def test_lr_modulation_scales_the_step_to_the_power_of_the_first():
    def moved(modulate: bool) -> float:
        p = param(0.0)
        optimizer = gap_hf.Adam([p], type="switch", betas=[(0.5, 0.999), (0.99, 0.999)], lr_modulation=modulate)
        for _ in range(30):
            before = p.item()
            step(optimizer, [1.0])
        assert choice(optimizer) == 1
        return p.item() - before

    nu = [sqrt((1 + b) / (1 - b)) for b in (0.5, 0.99)]
    assert moved(True) / moved(False) == pytest.approx(nu[1] / nu[0], rel=1e-4)


def test_lr_modulation_sgdm():
    moved = []
    for modulate in (True, False):
        p = param(0.0)
        optimizer = gap_hf.SGDM([p], type="switch", momentum=[0.5, 0.9], lr_modulation=modulate)
        for _ in range(30):
            step(optimizer, [1.0])
        before = p.item()
        step(optimizer, [1.0])
        assert choice(optimizer) == 1
        moved.append(p.item() - before)
    assert moved[0] / moved[1] == pytest.approx(sqrt(1 - 0.81) / sqrt(1 - 0.25), rel=1e-4)


# ---------------------------------------------------------------- no gradient, no number
def test_a_parameter_without_gradient_keeps_choice_and_state():
    p, q = param(0.0), param(0.0)
    optimizer = gap_hf.SGDM([p, q], type="switch_parameter_wise", momentum=[0.0, 0.9])
    for _ in range(10):
        step(optimizer, [1.0], [1.0])
    assert choice(optimizer) == [1, 1]
    state = {k: v.clone() for k, v in optimizer.state[q].items()}
    value = q.item()
    step(optimizer, [-5.0], None)
    assert choice(optimizer) == [0, 1]
    assert q.item() == value
    assert all(torch.equal(state[k], optimizer.state[q][k]) for k in state)


@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
def test_a_step_without_any_gradient_changes_nothing(type_):
    p = param(0.0)
    optimizer = gap_hf.SGDM([p], type=type_, momentum=[0.0, 0.9], hysteresis_threshold=1)
    for _ in range(10):
        step(optimizer, [1.0])
    before = choice(optimizer)
    assert before in (1, [1])
    value = p.item()
    step(optimizer, None)
    assert choice(optimizer) == before
    assert p.item() == value


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
@pytest.mark.parametrize("family", ["adam", "sgdm"])
def test_not_finite_gradients_leave_the_choice_and_reach_the_buffers_as_in_torch(family, type_, bad):
    p = param(1.0, 2.0)
    q = param(1.0, 2.0)
    if family == "adam":
        optimizer = gap_hf.Adam([p], type=type_, betas=[(0.5, 0.999), (0.99, 0.999)])
        reference = torch.optim.Adam([q], betas=(0.99, 0.999))
    else:
        optimizer = gap_hf.SGDM([p], type=type_, momentum=[0.5, 0.99])
        reference = torch.optim.SGD([q], lr=1e-3, momentum=0.99)
    for g in [[1.0, 1.0]] * 40 + [[bad, 1.0]] * 2:
        step(optimizer, g)
        q.grad = torch.tensor(g)
        reference.step()
        if g[0] == 1.0:
            before = (
                choice(optimizer),
                optimizer.param_groups[0].get("J_bar"),
                optimizer.param_groups[0]["negative_steps"],
            )
    assert before[0] in (1, [1])
    assert (
        choice(optimizer),
        optimizer.param_groups[0].get("J_bar"),
        optimizer.param_groups[0]["negative_steps"],
    ) == before
    name, theirs = ("exp_avg_1", "exp_avg") if family == "adam" else ("momentum_buffer_1", "momentum_buffer")
    assert torch.equal(optimizer.state[p][name].isfinite(), reference.state[q][theirs].isfinite())
    assert torch.equal(p.isfinite(), q.isfinite())


def test_not_finite_before_the_first_choice_is_index_0():
    p = param(1.0)
    optimizer = gap_hf.SGDM([p], type="switch", momentum=[0.5, 0.9])
    step(optimizer, [NAN])
    assert choice(optimizer) == 0


def test_a_not_finite_parameter_freezes_only_itself_where_each_chooses():
    p, q = param(0.0), param(0.0)
    optimizer = gap_hf.SGDM([p, q], type="switch_parameter_wise", momentum=[0.0, 0.9])
    step(optimizer, [NAN], [1.0])
    for _ in range(10):
        step(optimizer, [1.0], [1.0])
    assert choice(optimizer) == [0, 1]


def test_empty_parameters_score_0():
    empty = torch.zeros(0, 3, requires_grad=True)
    optimizer = gap_hf.Adam([empty], type="switch_parameter_wise", betas=[(0.5, 0.9), (0.9, 0.9)])
    empty.grad = torch.zeros(0, 3)
    optimizer.step()
    assert choice(optimizer) == [0]
    both = gap_hf.Adam([empty, p := param(0.0)], type="switch", betas=[(0.5, 0.9), (0.9, 0.9)])
    p.grad = torch.ones(1)
    both.step()
    assert both.last_scores.isfinite().all()


# ---------------------------------------------------------------- memory
@pytest.mark.parametrize(("betas", "buffers"), [([(0.5, 0.9), (0.9, 0.9)], 3), ([(0.5, 0.9), (0.9, 0.99)], 4),
                                                ([(0.5, 0.9)] * 3 + [(0.9, 0.8)], 6)])  # fmt: skip
def test_one_second_moment_per_distinct_beta2(betas, buffers):
    p = torch.zeros(4, 5, requires_grad=True)
    optimizer = gap_hf.Adam([p], type="switch", betas=betas)
    p.grad = torch.ones_like(p)
    optimizer.step()
    shapes = [tuple(v.shape) for k, v in optimizer.state[p].items() if k != "step"]
    assert shapes == [(4, 5)] * buffers
    assert optimizer.state[p]["step"].shape == ()
