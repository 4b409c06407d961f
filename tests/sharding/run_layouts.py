"""Run every layout of this world size with every case beside the reference twin; write what happened as JSON.

Started on every rank: python -m torch.distributed.run --nproc_per_node N -m tests.sharding.run_layouts {layouts,zero} OUT
"""

import contextlib
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .bag import CASES, Oracle, gradients, tensors
from .layouts import Wrapped, filled

STEPS = 60


def compare(wrapped: Wrapped, case: str, steps: int = STEPS, skip: bool = not os.environ.get('NOSKIP')) -> dict[str, Any]:
    """Step both; say where choices differ, how far apart the parameters ended, and what was chosen."""
    start = [t.to(wrapped.dtype) for block in tensors() for t in block]
    oracle = Oracle(case, start)
    wrong, seen, resets = [], set(), 0
    last: list[Any] = [None] * len(start)
    for t, row in enumerate(gradients(start, steps, skip=skip)):
        grads = [None if g is None else g.to(wrapped.dtype) for g in row]
        wrapped.step(grads)
        last = filled(wrapped.fills_in_zeros, last, grads, start)
        oracle.step(last)
        mine = [group["last_choice"] for group in wrapped.optimizer.param_groups]
        if mine != oracle.choices():
            wrong.append([t, mine, oracle.choices()])
        seen |= {c for group in mine for c in (group if isinstance(group, list) else [group])}
        resets += bool(wrapped.optimizer.last_resets)
    pairs = list(zip(wrapped.full(), oracle.params, strict=True))
    return {
        "wrong": wrong[:3],
        "chosen": sorted(seen),
        "resets": resets,
        "steps": wrapped.optimizer.steps_taken,
        "layout": type(wrapped.optimizer.layout()).__name__,
        "distance": max(float((p.reshape(-1) - q.detach().reshape(-1)).abs().max()) for p, q in pairs),
        "moved": min(float((p.reshape(-1) - s.reshape(-1)).abs().max()) for (p, _), s in zip(pairs, start, strict=True)),
    }


def main(backend: str, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = {}
    only = os.environ.get("ONLY", "")
    for name, (world, wrap) in importlib.import_module(f".{backend}", __package__).LAYOUTS.items():
        if world != dist.get_world_size() or only not in name:
            continue
        for case in CASES:
            try:
                results[f"{name}/{case}"] = compare(wrap(case, tensors()), case)
            except Exception:
                results[f"{name}/{case}"] = {"error": traceback.format_exc()}
    (out / f"rank{dist.get_rank()}.json").write_text(json.dumps(results))
    dist.barrier()
    with contextlib.suppress(Exception):
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
