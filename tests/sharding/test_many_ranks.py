"""On 4,096 ranks the host does in a step what it does on a few: counted with torch's fake process group."""

import json
import sys

import pytest

from ..tiny import needs_compiler, run
from .run_many_ranks import PARAMETERS, WORLDS

pytestmark = needs_compiler

SUMS = 2 + 1
"""Of each parameter: one for each candidate, and one for their beta2."""


@pytest.fixture(scope="module")
def counted():
    """Counts by layout, ranks, rank and number of parameters."""
    done = run([sys.executable, "-m", "tests.sharding.run_many_ranks"], timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    return {tuple(case): counts for case, counts in map(json.loads, done.stdout.splitlines())}


def test_one_reduction_of_a_row_for_each_parameter(counted):
    assert len(counted) == 2 * len(WORLDS) * 2 * len(PARAMETERS)
    for (layout, *_, P), counts in counted.items():
        assert counts["messages"] == [P * SUMS * 8], layout


@pytest.mark.parametrize("layout", ["fsdp2", "zero3"])
def test_python_grows_neither_with_ranks_nor_with_parameters(counted, layout):
    calls = [counts["calls"] for case, counts in counted.items() if case[0] == layout]
    assert max(calls) - min(calls) < 10  # a rank may hold nothing of a parameter
    assert max(calls) < 400


@pytest.mark.parametrize("layout", ["fsdp2", "zero3"])
def test_checking_the_layout_does_not_grow_with_ranks(counted, layout):
    for P in PARAMETERS:
        few, many = (max(counted[layout, world, rank, P]["checking"] for rank in (0, world // 2)) for world in WORLDS)
        assert many <= few < 100 + 20 * P
