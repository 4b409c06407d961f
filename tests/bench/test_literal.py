"""The literal GAP is GAP."""

import pytest
import torch

from gap_hf.bench.literal import LiteralGap
from gap_hf.optim.reference.adam import ReferenceAdam

SHAPES = [(7, 5), (31,), (3, 4, 2), (64, 16)]
OPTIONS = {
    "lr": 1e-2,
    "betas": [(0.8, 0.999), (0.9, 0.99), (0.99, 0.999)],
    "weight_decay": 0.1,
    "hysteresis_threshold": 1,
}


@pytest.mark.parametrize("type", ["switch", "switch_parameter_wise"])
def test_chooses_as_the_reference_does(type, monkeypatch):
    """Over gradients that agree for a while, then turn round, and then are noise."""
    generator = torch.Generator().manual_seed(0)
    mine = [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]
    theirs = [p.detach().clone().requires_grad_() for p in mine]
    direction = [torch.randn(shape, generator=generator) for shape in SHAPES]
    literal = LiteralGap(mine, type=type, **OPTIONS)
    reference = ReferenceAdam(theirs, type=type, decoupled_weight_decay=True, **OPTIONS)
    seen, resets = set(), []
    reset = literal._soft_reset
    monkeypatch.setattr(literal, "_soft_reset", lambda group, p: (resets.append(p), reset(group, p)))
    for step in range(20):
        strength = 1.0 if step < 8 else -0.5 if step < 14 else 0.0
        for p, q, d in zip(mine, theirs, direction, strict=True):
            p.grad = strength * d + 0.3 * torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        literal.step()
        reference.step()
        choice = literal.param_groups[0]["last_choice"]
        assert choice == reference.param_groups[0]["last_choice"]
        seen.update(choice if isinstance(choice, list) else [choice])
        for p, q in zip(mine, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert len(seen) > 1
    assert resets
