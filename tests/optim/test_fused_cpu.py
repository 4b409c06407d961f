"""What the fused CPU kernel is called for."""

import pytest

import gap_hf
from gap_hf.optim.kernels import fused_cpu
from gap_hf.optim.kernels.pick import pick

from .test_kernels import ADAM, BETAS, F32, parameters
from .twins import needs_fused, random_gradients


class Calls:
    """The library, counting calls."""

    def __init__(self, library):
        self.library, self.names = library, []

    def __getattr__(self, name):
        self.names.append(name)
        return getattr(self.library, name)


@needs_fused
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
def test_two_calls_whatever_the_number_of_tensors(monkeypatch, type_):
    """One counts the step, one does all the rest."""
    pick(ADAM, None, None, "cpu", F32)  # its check before its first use calls it, too
    calls = Calls(fused_cpu.load())
    monkeypatch.setattr(fused_cpu, "load", lambda: calls)
    for n in (1, 50):
        ps = parameters(*[(5, 3)] * n)
        optimizer = gap_hf.GapAdamW(ps, betas=BETAS, type=type_)
        for _ in random_gradients(ps, 3):
            calls.names.clear()
            optimizer.step()
            assert len([name for name in calls.names if name != "gap_has_float16"]) == 2
