"""A recorder on one rank only, built before the first step, waits for no other rank. Slow: DeepSpeed's layouts."""

import sys

import pytest

from gap_hf.choices import read_choices

from ..tiny import needs_compiler, run
from .bag import SHAPES
from .one_recorder import LAYOUTS, STEPS

NAMES = {f"blocks.{b}.weights.{i}" for b, block in enumerate(SHAPES) for i in range(len(block))}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("backend", ["layouts", pytest.param("zero", marks=[needs_compiler, pytest.mark.slow])])
def test_records(tmp_path, backend):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    command = [*torchrun, "-m", "tests.sharding.one_recorder", backend, tmp_path]
    done = run(command, timeout=200, DS_ACCELERATOR="cpu")
    assert done.returncode == 0, done.stderr[-4000:]
    for case in ("adamw-wise", "adamw-switch"):
        found = [read_choices(tmp_path / name / case) for name in LAYOUTS[backend]]
        for choices in found:
            assert choices.steps.tolist() == list(range(1, STEPS + 1))
            if case == "adamw-wise":
                assert set(choices.parameters) == NAMES
        assert len({choices.choices.tobytes() for choices in found}) == 1, "the same under every layout"
