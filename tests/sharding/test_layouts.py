"""Under every layout, on real processes: the choices of the reference twin on whole parameters, over 50 steps."""

import functools
import json
import os
import sys
from math import prod
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import gap_hf

from ..tiny import needs_compiler, run
from . import layouts, zero
from .bag import CASES, SHAPES
from .run_layouts import ALL_CASES

LIMIT = 3600 if os.environ.get("GAP_HF_TEST_ALL") else 600
"""Seconds for a launch with its cases."""
LAYOUTS = [pytest.param("layouts", world, name, id=name) for name, (world, _) in layouts.LAYOUTS.items()]
LAYOUTS += [pytest.param("zero", 2, name, id=name, marks=needs_compiler) for name in zero.LAYOUTS]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What every rank found in all layouts of one backend and world size: they share one launch."""

    @functools.cache  # a failed launch, too
    def launch(backend: str, world: int) -> tuple[Path, CompletedProcess]:
        out: Path = tmp_path_factory.mktemp(f"{backend}{world}")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", world]
        command = [*torchrun, "-m", "tests.sharding.run_layouts", backend, out]
        return out, run(command, timeout=LIMIT - 20, DS_ACCELERATOR="cpu")

    def read(backend: str, world: int) -> list[dict]:
        out, done = launch(backend, world)
        assert done.returncode == 0, done.stderr[-4000:]
        return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(world)]

    return read


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize(("backend", "world", "name"), LAYOUTS)
def test_choices_and_parameters_are_the_twins(results, backend, world, name):
    ranks = results(backend, world)
    cases = {key: [rank[key] for rank in ranks] for key in ranks[0] if key.split("/")[0] == name}
    assert len(cases) >= 2
    for key, found in cases.items():
        for result in found:
            assert "error" not in result, f"{key}: {result['error']}"
            assert result["wrong"] == [], f"{key}: (step, chosen, by the twin)"
            assert result["weights_off"] < 1e-3, key  # low precision included
            assert result["missed_steps"] == 0
            assert result["distance"] < 1e-5, key
            assert result["state_distance"] < 1e-5, key
            assert CASES[key.split("/")[1]].is_constant() or len(result["chosen"]) > 1, f"{key} never changed"


ASSEMBLING = ("all_gather_into_tensor", "wait_tensor", "_wrap_tensor_autograd")
"""What a DTensor does to become whole; the waiting is the stream's, not the host's."""

GATHERS = {"tensor-parallel": 4, "fsdp2-tensor-parallel": 11, "mixed-meshes": 8}
"""One for each parameter and each mesh dimension that cuts it; for all 7 parameters once if not listed."""

GATHERED = {"fsdp1-no-shard": [], "zero3-sub-groups": [30, 54, 3, 7], "zero3-clip": [30, 54, 3, 7]}
"""The elements of the parameters that are cut, call by call."""


def gathered(layout: str) -> list[int]:
    """The same for any layout of flat pieces."""
    usual = {"fsdp1": [87], "zero1": [42, 5], "zero2": [42, 5], "zero3": [87, 7]}
    return GATHERED.get(layout, usual[layout.split("-")[0]])


def before_the_scores(optimizer: type) -> list[int]:
    """How many numbers each of a family's reductions before the scores carries."""
    matrices = [shape for block in SHAPES for shape in block if len(shape) > 1 and 1 not in shape[-2:]]
    sides = [sum(prod(shape[:-2]) * shape[d] for shape in matrices) for d in (-1, -2)]
    return {gap_hf.Adai: [2], gap_hf.Adams: sides}.get(optimizer, [])


def sums_per_parameter(optimizer: type, options: dict) -> int:
    """K, and one more for each distinct beta2, for root-free RMSProp's mean square or for Shampoo's trace.

    Adai and Adams have 2 K.
    """
    if optimizer is gap_hf.GapOver:
        return len(options["candidates"].split(":"))
    if optimizer in (gap_hf.Adai, gap_hf.Adams):
        return 2 * len(options["betas"]) + (optimizer is gap_hf.Adams)
    if "momentum" in options:
        return len(options["momentum"]) + ("batch_size" in options)
    return len(options["betas"]) + len({beta2 for _, beta2 in options["betas"]})


@pytest.mark.parametrize(("backend", "world", "name"), LAYOUTS)
def test_one_collective_and_no_waiting(results, backend, world, name):
    """One all-reduce of the partial sums per step where ranks hold different elements, else none.

    Adai has one before, of a mean over the model, and Adams two, of the products of its power iteration.
    """
    for key, found in results(backend, world)[0].items():
        layout, case = key.split("/")
        if layout != name:
            continue
        options = CASES[case].options
        chooses = options.get("type", "default") == "first" or not CASES[case].is_constant()
        elements = before_the_scores(CASES[case].optimizer)
        if chooses:
            # FSDP1 packs the presence of gradients into a word
            each = sums_per_parameter(CASES[case].optimizer, options)
            elements.append(7 * each + (found["layout"] == "FlatShards"))
        reduces = found["layout"] not in ("Whole", "HalfPrecision")
        collectives = found["counts"]["collectives"]
        assembles = reduces and CASES[case].optimizer is gap_hf.IFShampoo  # whole gradients come first
        if assembles and found["layout"] != "Meshes":
            elements = gathered(layout) + elements
        elif assembles:
            gathers = [n for kind, n in collectives if kind == "all_gather_into_tensor"]
            assert len(gathers) == GATHERS.get(layout, 7), key
            collectives = [c for c in collectives if c[0] not in ASSEMBLING]
        assert collectives == ([["allreduce_", n] for n in elements] if reduces else []), key
        assert found["counts"]["waits_in_reduction"] == 0, key


@needs_compiler
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
    there = {name: adapter for name, adapter in adapters.items() if name in layouts.LAYOUTS or name in zero.LAYOUTS}
    assert {name: found[f"{name}/adamw-switch"]["layout"] for name in there} == there
