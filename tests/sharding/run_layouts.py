"""Run every layout of this world size with every case beside the reference twin; write what happened as JSON.

Started on every rank:
python -m torch.distributed.run --standalone --nproc_per_node N -m tests.sharding.run_layouts {layouts,zero} OUT
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import gap_hf

from .bag import CASES, Case, Oracle, gradients, tensors
from .counting import count
from .layouts import Wrapped, clipped, handed_on
from .leaving import leave

ALL_CASES = {"single", "ddp", "fsdp1", "fsdp2", "tensor-parallel", "zero1", "zero2", "zero3"}
"""The layouts that are tried with every case; their variants make do with some."""

SOME = ("adamw-switch", "adam-wise-two-beta2")
MIXES = ("adamw-mix", "sgdm-mix-wise")
"""Variants are tried with these two cases and with one of the mixes in turn."""

RARE = {
    "adamw-8bit-state": ("single", "fsdp1", "fsdp2", "tensor-parallel", "zero1", "zero3"),
    "sgdm-random-wise": ("single", "fsdp1", "zero2"),
    "adamw-random": ("single", "ddp", "fsdp2", "zero1", "zero3"),
    "adamw-first": ("single", "fsdp2", "zero3"),
    "adai-wise": ("single", "ddp", "fsdp1", "fsdp2", "zero1", "zero3"),
    "adams-wise": ("single", "fsdp1", "fsdp2", "tensor-parallel", "zero1", "zero3"),
    "rf_adamw-wise": ("single", "fsdp1", "tensor-parallel", "zero3"),
    "over-wise": ("single", "ddp", "fsdp1", "fsdp2", "tensor-parallel", "zero1", "zero3"),
    "rf_rmsprop-switch": ("single", "ddp", "fsdp2", "zero0", "zero1", "zero2"),
}
"""Cases that share all of their code with others, and where they are tried even so."""

SHAMPOO = "if_shampoo-switch"
"""The case whose family needs the gradients of whole parameters."""

CUT_OTHERWISE = (
    *("fsdp2-late-swap", "fsdp2-on-4", "hsdp", "fsdp2-tensor-parallel", "mixed-meshes", "fsdp1-no-shard", "fsdp1-on-4"),
    *("fsdp1-hybrid", "zero0-bf16", "zero1-bf16-fp32", "zero2-round-robin", "zero2-offload", "zero3-sub-groups"),
)
"""Variants in which parameters are in other pieces; that case is tried with them, too."""

INFINITE = 21
"""The step that gets an infinite gradient where the backend skips such steps; one in which none is missing."""


def compare(wrapped: Wrapped, case: Case, blocks: list[list[Tensor]]) -> dict[str, Any]:
    """Step both; say where choices differ, how far apart the parameters ended, and what was chosen."""
    steps = case.steps
    blocks = [[t.to(wrapped.dtype) for t in block] for block in blocks]
    start = [t for block in blocks for t in block]
    names = [f"blocks.{b}.weights.{i}" for b, block in enumerate(blocks) for i in range(len(block))]
    gathers = any(
        case is CASES[name]
        for name in ("adam-wise-two-beta2", "sgdm-wise", "adamw-bf16-state", "adamw-8bit-state", SHAMPOO)
    )
    oracle = Oracle(case, start, and_alone=gathers)
    wrong, seen, resets, weights_off = [], set(), 0, 0.0
    last: list[Any] = [None] * len(start)
    for t, row in enumerate(gradients(start, steps)):
        grads = [None if g is None else g.to(wrapped.dtype) for g in row]
        if wrapped.skips_infinite and t == INFINITE:
            wrapped.step([torch.full_like(g, float("inf")) if i == 0 else g for i, g in enumerate(grads)])
            continue
        wrapped.step(grads)
        last = handed_on(wrapped.fills_in_zeros, last, grads, blocks)
        oracle.step(clipped(last, wrapped.clip) if wrapped.clip else last)
        mine = [group["last_choice"] for group in wrapped.optimizer.param_groups]
        if mine != oracle.choices():
            wrong.append([t, mine, oracle.choices()])
        weights_off = max(weights_off, oracle.weights_are_off_by(wrapped.optimizer.param_groups))
        seen |= {c for group in mine for c in (group if isinstance(group, list) else [group])}
        resets += bool(wrapped.optimizer.last_resets)
    with torch.no_grad():
        pairs = zip(wrapped.full(), oracle.params, strict=True)
        distance = max(float((p.reshape(-1) - q.reshape(-1)).abs().max()) for p, q in pairs)
    missed = steps - wrapped.skips_infinite - wrapped.optimizer.steps_taken
    return {
        "wrong": wrong[:3],
        "chosen": sorted(seen),
        "resets": resets,
        "weights_off": weights_off,
        "missed_steps": missed,
        "state_distance": compare_state(wrapped, oracle, names) if gathers else 0.0,
        "counts": count(wrapped, grads),
        "layout": type(wrapped.optimizer.layout()).__name__,
        "distance": distance,
    }


def compare_state(wrapped: Wrapped, oracle: Oracle, names: list[str]) -> float:
    """How far the gathered state is from that of the same optimizer on whole parameters; 0 except on rank 0."""
    gathered = gap_hf.consolidated_state_dict(wrapped.optimizer, wrapped.model)
    if dist.get_rank():
        assert gathered == {}
        return 0.0
    expected = gap_hf.consolidated_state_dict(oracle.alone, oracle.bag)
    numbers = {name: f"blocks.0.weights.{i}" for i, name in enumerate(names)}
    assert [[numbers[n] for n in g["params"]] for g in gathered["param_groups"]] == [
        g["params"] for g in expected["param_groups"]
    ]
    distances = []
    for name, state in gathered["state"].items():
        other = expected["state"].pop(numbers[name])
        assert state.keys() == other.keys()
        for key, value in state.items():
            assert value.shape == other[key].shape
            assert value.dtype == other[key].dtype
            distances.append(float((value - other[key]).abs().max()))
    assert not expected["state"], "some are missing"
    return max(distances)


def cases(layouts: Sequence[str], name: str) -> list[str]:
    """The cases that a layout is tried with; all of them if ``GAP_HF_TEST_ALL`` is set, as ``make test-all`` does."""
    if os.environ.get("GAP_HF_TEST_ALL"):
        return list(CASES)
    if name not in ALL_CASES:
        variant = (*SOME, MIXES[layouts.index(name) % len(MIXES)], *[SHAMPOO] * (name in CUT_OTHERWISE))
        return [case for case in CASES if case in variant]
    return [case for case in CASES if name in RARE.get(case, (name,))]


def main(backend: str, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = {}
    layouts = importlib.import_module(f".{backend}", __package__).LAYOUTS
    for name, (world, wrap) in layouts.items():
        if world != dist.get_world_size():
            continue
        for case in cases(list(layouts), name):
            try:
                results[f"{name}/{case}"] = compare(wrap(CASES[case], tensors()), CASES[case], tensors())
            except Exception:
                results[f"{name}/{case}"] = {"error": traceback.format_exc()}
    (out / f"rank{dist.get_rank()}.json").write_text(json.dumps(results))
    leave()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
