"""``torch.set_default_device`` is about what scripts make, not about where an optimizer keeps its numbers."""

import pytest
import torch

import gap_hf

from .twins import KERNELS


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
def test_a_step_under_another_default_device(type_, kernel):
    ends = []
    for device in ("cpu", "meta"):
        ps = [torch.ones(3, 2, requires_grad=True), torch.ones(4, requires_grad=True)]
        optimizer = gap_hf.GapAdamW(ps, betas=[(0.8, 0.999), (0.99, 0.999)], type=type_, **KERNELS[kernel])
        for scale in (1.0, -2.0, 0.5):
            for p in ps:
                p.grad = torch.full_like(p, scale)
            ps[1].grad = None if scale < 0 else ps[1].grad
            with torch.device(device):
                optimizer.step()
                optimizer.decision().scores_by_parameter()
                optimizer.decision().not_counted()
                optimizer.load_state_dict(optimizer.state_dict())
        gap_hf.consolidated_state_dict(optimizer, torch.nn.ParameterList(ps))
        ends.append(torch.cat([p.detach().flatten() for p in ps]))
    assert torch.equal(*ends)
