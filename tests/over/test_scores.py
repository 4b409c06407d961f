"""Where each way to compare proposals goes wrong, as the page says."""

import pytest
import torch

import gap_hf
from gap_hf.optim.over.scores import size
from gap_hf.optim.over.spec import of_text

CURVATURES = torch.logspace(0, -3, 20)
"""Of a quadratic loss whose slow directions need a preconditioner."""


def descend(candidates: str, score: str, lr: float, steps: int = 200):
    """Minimize the quadratic; give its value at the end, and how often each candidate was applied."""
    p = torch.ones(20, requires_grad=True)
    optimizer = gap_hf.GapOver([p], candidates, lr=lr, type="switch" if ":" in candidates else "default", score=score)
    counts = [0] * len(candidates.split(":"))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 0.5 * (CURVATURES * p.square()).sum()
        loss.backward()
        optimizer.step()
        counts[optimizer.param_groups[0]["last_choice"]] += 1
    return float(loss.detach()), counts


def test_by_rms_plain_gradient_descent_is_always_best():
    """No step of the same size is better aligned with the gradient than the gradient itself, however slow it is."""
    loss, counts = descend("sgd/lr_scale/30:adamw:lion/lr_scale/0.3", "rms", 0.03)
    assert counts == [200, 0, 0]
    faster, _ = descend("adamw", "rms", 0.03)
    assert faster < loss / 10


def test_by_decrease_the_largest_step_is_always_best():
    """The first-order decrease grows with the step, also where the loss does not fall."""
    loss, counts = descend("sgd:sgd/lr_scale/10", "decrease", 0.3, 20)
    assert counts == [0, 20]
    assert loss > 1e6
    assert descend("sgd", "decrease", 0.3, 20)[0] < 1


def test_by_next_a_far_too_large_step_is_seen_only_after_it_was_taken():
    """So it is taken every second time, and the loss rises, if less than by the decrease."""
    loss, counts = descend("sgd:sgd/lr_scale/10", "next", 0.3, 20)
    assert counts == [10, 10]
    assert (
        descend("sgd", "next", 0.3, 20)[0]
        < 1
        < 100
        < loss
        < 1e-6 * descend("sgd:sgd/lr_scale/10", "decrease", 0.3, 20)[0]
    )


def test_by_next_the_first_candidate_is_taken_where_nothing_has_been_proposed():
    p = torch.ones(3, requires_grad=True)
    optimizer = gap_hf.GapOver([p], "sgd:sgd/lr_scale/10", lr=0.1, type="switch")
    p.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.param_groups[0]["last_choice"] == 0
    optimizer.step()
    assert optimizer.param_groups[0]["last_choice"] == 1


def noisy(shape: tuple[int, ...], i: int, step: int) -> torch.Tensor:
    """Gradients whose correlation in time comes and goes."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * step + i))
    lasting = torch.randn(shape, generator=torch.Generator().manual_seed(i + 17 * (step // 40)))
    return drawn + 0.8 * (step // 40 % 2) * lasting


@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
@pytest.mark.parametrize(
    ("candidates", "other", "options", "after"),
    [
        (["sgd/momentum/0.5", "sgd/momentum/0.9", "sgd/momentum/0.99"], "SGDM", {"momentum": [0.5, 0.9, 0.99]}, 1),
        (
            [f"adamw/betas/{beta}|0.999" for beta in (0.5, 0.8, 0.9)], "GapAdamW",
            {"betas": [(0.5, 0.999), (0.8, 0.999), (0.9, 0.999)]}, 40,
        ),
    ],
)  # fmt: skip
def test_by_gap_one_family_is_chosen_from_as_gap_does(type_, candidates, other, options, after):
    """For SGD's momenta always; for Adam's once the filters are full, since its steps correct for their beginning.

    With one parameter: GAP weighs those of Adam by what GapOver can't see.
    """
    shapes = [(30, 20)] if "adam" in candidates[0] else [(30, 20), (50,)]
    mine, gaps = ([torch.zeros(shape, requires_grad=True) for shape in shapes] for _ in range(2))
    over = gap_hf.GapOver(mine, candidates, lr=1e-3, type=type_, score="gap")
    gap = getattr(gap_hf, other)(gaps, lr=1e-3, weight_decay=0.0, type=type_, **options)
    chosen = []
    for step in range(240):
        for i, (p, q) in enumerate(zip(mine, gaps, strict=True)):
            p.grad = noisy(p.shape, i, step)
            q.grad = p.grad.clone()
        over.step(), gap.step()
        pair = [optimizer.param_groups[0]["last_choice"] for optimizer in (over, gap)]
        chosen.append(tuple(torch.tensor(pair).reshape(2, -1).unbind(1)))
    late = [one for of_step in chosen[after:] for one in of_step]
    assert all(a == b for a, b in late)
    assert len({int(a) for a, _ in late}) > 1


def test_by_gap_sizes_are_the_norms_of_filters():
    for text, expected, exponent in (
        ("sgd", 1.0, 1), ("sgd/momentum/0.9", (1 / (1 - 0.9**2)) ** 0.5, 1),
        ("adamw/betas/0.9|0.999", (0.1 / 1.9) ** 0.5, 0), ("lion", 1.0, 0),
    ):  # fmt: skip
        found = size(of_text(text)[0])
        assert found.exponent == exponent
        assert abs(found.size / expected - 1) < 1e-4, text


def test_by_gap_noise_is_followed():
    """Its product with the gradient counts the noise that a step has seen; the next gradient's does not.

    Most gradients are noise about a weak slope, along which the long memory goes best.
    """
    counts = {}
    for score in ("gap", "next"):
        p = torch.zeros(400, requires_grad=True)
        candidates = "adamw/betas/0.0|0.999:adamw/betas/0.97|0.999"
        optimizer = gap_hf.GapOver([p], candidates, lr=1e-4, score=score, type="switch", J_ema=0.9)
        counts[score] = [0, 0]
        for step in range(300):
            p.grad = torch.randn(400, generator=torch.Generator().manual_seed(step)) + 0.15
            optimizer.step()
            counts[score][optimizer.param_groups[0]["last_choice"]] += 1
    assert counts["gap"][1] < 30
    assert counts["next"][1] > 200
