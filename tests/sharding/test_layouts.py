"""Under every layout, on real processes: the choices of the reference twin on whole parameters, over 60 steps."""

import functools
import json
import sys
from pathlib import Path

import pytest

from ..tiny import run
from . import layouts, zero
from .bag import CASES
from .run_layouts import ALL_CASES

LAYOUTS = {
    (backend, world, name)
    for backend, module in (("layouts", layouts), ("zero", zero))
    for name, (world, _) in module.LAYOUTS.items()
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What every rank found in all layouts of one backend and world size: they share one launch."""

    @functools.cache
    def launch(backend: str, world: int) -> list[dict]:
        out: Path = tmp_path_factory.mktemp(f"{backend}{world}")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", world]
        done = run([*torchrun, "-m", "tests.sharding.run_layouts", backend, out], timeout=580, DS_ACCELERATOR="cpu")
        assert done.returncode == 0, done.stderr[-4000:]
        return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(world)]

    return launch


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("backend", "world", "name"), sorted(LAYOUTS))
def test_choices_and_parameters_are_the_twins(results, backend, world, name):
    ranks = results(backend, world)
    cases = {key: [rank[key] for rank in ranks] for key in ranks[0] if key.split("/")[0] == name}
    assert len(cases) >= 3
    for key, found in cases.items():
        for result in found:
            assert "error" not in result, f"{key}: {result['error']}"
            assert result["wrong"] == [], f"{key}: (step, chosen, by the twin)"
            assert result["missed_steps"] == 0
            assert result["distance"] < 1e-5, key
            assert CASES[key.split("/")[1]].options["type"] == "default" or len(result["chosen"]) > 1, (
                f"{key} never changed"
            )


def test_each_layout_is_read_by_its_adapter(results):
    """Not, say, FSDP2 by the one for whole parameters."""
    adapters = {
        "ddp": "Whole",
        "fsdp1": "FlatShards",
        "fsdp2": "Meshes",
        "tensor-parallel": "Meshes",
        "zero0": "Whole",
        "zero0-bf16": "HalfPrecision",
        "zero1": "Zero12",
        "zero1-bf16-fp32": "Zero1BF16",
        "zero2": "Zero12",
        "zero3": "Zero3",
    }
    found = {**results("layouts", 2)[0], **results("zero", 2)[0]}
    assert all(found[f"{name}/adamw-wise"]["resets"] for name in ALL_CASES - {"single"}), "buffers were reset, too"
    assert {name: found[f"{name}/adamw-switch"]["layout"] for name in adapters} == adapters
