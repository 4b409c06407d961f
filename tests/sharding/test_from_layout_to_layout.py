"""A whole state, gathered in one layout, goes on in another and on other numbers of processes, as if uninterrupted."""

import json
import sys

import pytest

from ..tiny import needs_compiler, run
from .run_portable import ALL, LAYOUTS, PLAN, SOURCES_OF

LIMIT = 3600 if ALL else 600
pytestmark = [needs_compiler, pytest.mark.timeout(LIMIT)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What every rank found, by action, case, and where it was saved and loaded."""
    out = tmp_path_factory.mktemp("portable")
    found: dict[str, list[dict]] = {}
    *smaller, largest = LAYOUTS
    launches = [(n, ["save"]) for n in smaller] + [(largest, ["save", "load"])] + [(n, ["load"]) for n in smaller]
    for world, actions in launches:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", world]
        command = [*torchrun, "-m", "tests.sharding.run_portable", out, *actions]
        done = run(command, timeout=LIMIT - 20, DS_ACCELERATOR="cpu")
        assert done.returncode == 0, done.stderr[-4000:]
        for action in actions:
            for rank in range(world):
                for key, result in json.loads((out / f"{action}-{world}-rank{rank}.json").read_text()).items():
                    found.setdefault(f"{action}/{key}", []).append(result)
    return found


@pytest.mark.parametrize(("case", "source", "into"), PLAN)
def test_it_goes_on_as_if_nothing_had_happened(ranks, case, source, into):
    whole, *_ = ranks[f"save/{case}/{source}/{source}"]
    assert "error" not in whole, whole["error"]
    results = ranks[f"load/{case}/{source}/{into}"]
    assert len(results) == int(into[-1])
    for result in results:
        assert "error" not in result, result["error"]
        assert result["wrong"] == [], "(step, chosen, by the twin)"
        assert result["distance"] < 1e-5
        assert result["digest"] == whole["digest"], "bit for bit"


def test_every_layout_is_saved_and_loaded():
    """In CI from one or two others, by ``make test-all`` from all."""
    for case, sources in SOURCES_OF.items():
        assert {source for c, source, _ in PLAN if c == case} == set(sources)
