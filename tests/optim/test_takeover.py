"""Another optimizer that took over a gap optimizer's groups, or has loaded its state."""

import subprocess
import sys

import pytest
import torch

import gap_hf

from ..tiny import ROOT

HOOKS = """
import torch
from torch.optim import optimizer
before = dict(optimizer._global_optimizer_pre_hooks), dict(optimizer._global_optimizer_post_hooks)
import gap_hf
after = dict(optimizer._global_optimizer_pre_hooks), dict(optimizer._global_optimizer_post_hooks)
assert before == after == ({}, {}), after
for _ in range(2):
    gap_hf.GapAdamW([torch.ones(3, requires_grad=True)])
assert len(optimizer._global_optimizer_pre_hooks) == 1, "one is enough"
"""


def gap_optimizer() -> gap_hf.Adam:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    return gap_hf.Adam([p], betas=[(0.5, 0.99), (0.9, 0.99)], type="switch")


def test_importing_hooks_no_optimizer():
    """Only a gap optimizer that has been built can be taken over."""
    done = subprocess.run([sys.executable, "-c", HOOKS], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_an_optimizer_that_took_over_the_groups():
    """accelerate does this with DeepSpeedCPUAdam."""
    taker = torch.optim.AdamW(gap_optimizer().param_groups)
    with pytest.raises(RuntimeError, match="replaced by torch.optim.adamw.AdamW.*zero_force_ds_cpu_optimizer"):
        taker.step()


def test_another_family():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    gap = gap_hf.SGDM([p], momentum=0.9, type="default")
    gap.step()
    sgd = torch.optim.SGD([p])
    sgd.load_state_dict(gap.state_dict())
    with pytest.raises(RuntimeError, match=r"the state that torch.optim.sgd.SGD has loaded is a gap optimizer's"):
        sgd.step()


def test_others_step_as_ever():
    gap = gap_optimizer()
    gap.step()
    other = torch.optim.AdamW(gap.param_groups[0]["params"])
    other.step()
    assert other.state
