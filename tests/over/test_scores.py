"""Where each way to compare proposals goes wrong, as the page says."""

import torch

import gap_hf

CURVATURES = torch.logspace(0, -3, 20)
"""Of a quadratic loss whose slow directions need a preconditioner."""


def descend(candidates: str, score: str, lr: float, steps: int = 200):
    """Minimize the quadratic; give its value at the end, and how often each candidate was applied."""
    p = torch.ones(20, requires_grad=True)
    optimizer = gap_hf.GapOver([p], candidates, lr=lr, score=score)
    counts = [0] * len(candidates.split(":"))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 0.5 * (CURVATURES * p.square()).sum()
        loss.backward()
        optimizer.step()
        counts[optimizer.param_groups[0]["last_choice"][0]] += 1
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
