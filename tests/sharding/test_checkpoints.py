"""Saved in the middle by each backend's own means, loaded on as many or fewer processes, and finished: bit for bit."""

import json
import sys

import pytest

from ..tiny import needs_compiler, run
from .run_checkpoints import LOADS, OTHERS, REFUSED, SAVES, SOME_CASES, cases_of

pytestmark = needs_compiler
PLANS = {("save", world): list(names) for world, names in SAVES.items()}
PLANS |= {("load", world): list(names) for world, names in LOADS.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """(action, world) -> what each rank found."""
    out = tmp_path_factory.mktemp("checkpoints")
    found = {}
    for action, world in PLANS:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", world]
        done = run([*torchrun, "-m", "tests.sharding.run_checkpoints", action, out], timeout=400, DS_ACCELERATOR="cpu")
        assert done.returncode == 0, done.stderr[-4000:]
        paths = [out / f"{action}-on-{world}-rank{rank}.json" for rank in range(world)]
        found[action, world] = [json.loads(path.read_text()) for path in paths]
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("action", "world", "name"), [(*key, name) for key, names in PLANS.items() for name in names])
def test_the_rest_of_the_run(results, action, world, name):
    into = name if action == "save" else {**LOADS[world], **REFUSED.get(world, {})}[name]
    for case in cases_of(name, into):
        uninterrupted = next(r[0] for (a, _), r in results.items() if a == "save" and f"{name}/{case}" in r[0])
        for rank in results[action, world]:
            result = rank[f"{name}/{case}"]
            assert "error" not in result, result["error"]
            assert result["wrong"] == []
            assert result["distance"] < 1e-5
            assert result["digest"] == uninterrupted[f"{name}/{case}"]["digest"], f"{case}: not the same bits"


def test_all_layouts_end_in_the_same_bits(results):
    """With whole gradients on every rank and powers of two of them, not even the rounding differs."""
    for case in (*SOME_CASES, *OTHERS):
        ends = {
            name: results["save", world][0][f"{name}/{case}"]["digest"]
            for world, names in SAVES.items()
            for name in names
            if case in cases_of(name, name) and not name.endswith(("bf16", "bf16-fp32", "fp16"))
        }
        assert len(ends) > 1
        assert len(set(ends.values())) == 1, ends


@pytest.mark.parametrize("name", REFUSED[1])
def test_deepspeed_refuses_another_number_of_processes(results, name):
    error = results["load", 1][0][f"{name}/{SOME_CASES[0]}"]["error"]
    assert "ZeRORuntimeException: The checkpoint being loaded used a DP world size of 2 but the current" in error
