"""How much Python a step runs: counted, since times depend on the machine."""

import pytest
import torch

import gap_hf

from ..calls import python_calls
from .twins import needs_fused


def after_a_step(N, **options):
    """An optimizer of N tensors in two groups that has taken a step."""
    ps = [torch.nn.Parameter(torch.randn(3)) for _ in range(N)]
    for p in ps:
        p.grad = torch.randn(3)
    optimizer = gap_hf.GapAdamW([{"params": ps[: N // 2]}, {"params": ps[N // 2 :]}], **options)
    optimizer.step()
    return optimizer


@needs_fused
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise", "mix"])
def test_no_python_is_run_for_each_tensor(type_):
    few, many = (python_calls(after_a_step(N, type=type_).step) for N in (4, 400))
    assert many == few
    assert few < 300


@needs_fused
def test_options_are_parsed_when_they_change(monkeypatch):
    optimizer = after_a_step(4, betas=[(0.6, 0.999), (0.9, 0.999)])
    parsed, parse = [], type(optimizer.family).parse
    monkeypatch.setattr(type(optimizer.family), "parse", lambda *args: parsed.append(1) or parse(*args))
    for t in range(3):
        optimizer.param_groups[0]["lr"] = 1e-3 / (t + 1)
        optimizer.step()
    assert not parsed
    optimizer.param_groups[0]["betas"] = [(0.5, 0.999), (0.9, 0.999)]
    optimizer.step()
    assert parsed


@needs_fused
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
def test_each_address_is_asked_for_once(monkeypatch, type_):
    """Those of value, gradient, count and the three buffers: any of them may be another than at the step before."""
    optimizer = after_a_step(400, type=type_, betas=[(0.5, 0.9), (0.9, 0.9)])
    asked, data_ptr = [], torch.Tensor.data_ptr
    monkeypatch.setattr(torch.Tensor, "data_ptr", lambda tensor: asked.append(1) or data_ptr(tensor))
    optimizer.step()
    assert 6 * 400 <= len(asked) < 6 * 400 + 40
