"""Property test on real processes: random models, groups, options and shardings; the choices are the twin's."""

import json
import os
import sys

import pytest

from ..tiny import needs_compiler, run

SEEDS = 18 if os.environ.get("GAP_HF_TEST_ALL") else 8

pytestmark = needs_compiler


@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_random_layouts(tmp_path, world):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", world]
    done = run([*torchrun, "-m", "tests.sharding.run_random", SEEDS, tmp_path], timeout=580, DS_ACCELERATOR="cpu")
    assert done.returncode == 0, done.stderr[-4000:]
    for rank in range(world):
        results = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert len(results) == SEEDS
        for seed, result in results.items():
            assert "error" not in result, f"seed {seed}: {result['error']}"
            assert (result["wrong"], result["missed_steps"]) == ([], 0), f"seed {seed}, {result['layout']}"
            assert result["distance"] < 1e-5, f"seed {seed}, {result['layout']}"
