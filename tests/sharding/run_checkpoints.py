"""Save in the middle of a run, or load on as many or fewer processes and finish it; write what happened as JSON.

Started on every rank:
python -m torch.distributed.run --standalone --nproc_per_node N -m tests.sharding.run_checkpoints {save,load} DIR
"""

import hashlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from .bag import CASES, Oracle, gradients, tensors
from .layouts import LAYOUTS as TORCH
from .layouts import Wrapped
from .leaving import leave
from .zero import LAYOUTS as DEEPSPEED
from .zero import Zero

STEPS, SAVED = 24, 13
SOME_CASES = ("adamw-switch", "sgdm-wise")
ONE_OF_EACH = ("ddp", "zero2", "fsdp1", "fsdp2", "fsdp2-on-4", "zero3-offload", "zero1-bf16-fp32", "zero0-bf16")
"""Layouts that are tried with other families, too: one for each adapter."""
OTHERS = ("adams-wise", "adai", "rf_rmsprop-switch")
"""The first one in all of these, each of the others in every other."""
OF_MANY = ("fsdp1", "fsdp2", "zero3-offload")
"""Layouts that are tried with whole optimizers as candidates."""
IN_8_BITS = ("fsdp1", "fsdp2", "tensor-parallel", "zero2", "zero3-sub-groups")
"""Layouts that are tried with state in 8 bits: bytes in the place of floating point numbers."""
OF_OWN_SHAPES = ("fsdp1", "fsdp2-on-4", "zero3-offload")
"""Layouts that are tried with a family whose buffers have shapes of their own; by ``make test-all`` in more."""
if os.environ.get("GAP_HF_TEST_ALL"):
    OF_OWN_SHAPES += ("ddp", "fsdp2", "fsdp1-on-4", "zero2")

MIXED = ("tensor-parallel", "zero1", "zero2-offload", "zero3-sub-groups")
"""Layouts that are tried with a mix by scores in place of a pick. They are loaded as they were saved: elsewhere the
sums are rounded otherwise, and the weights with them."""


def cases_of(name: str, into: str) -> tuple[str, ...]:
    """The cases that a layout is tried with, and loaded from in the layout ``into``."""
    if name == "fsdp1" != into:  # whose 8-bit state is saved under other names
        return tuple(case for case in cases_of(name, name) if case != "adamw-8bit-state")
    small = ("adamw-8bit-state",) if name in IN_8_BITS else ()
    if name in MIXED:
        return ("adamw-switch", "sgdm-mix-wise", *small)
    cases = (*SOME_CASES, "if_shampoo-switch") if name in OF_OWN_SHAPES else SOME_CASES
    cases = (*cases, *small)
    cases = (*cases, "over-wise") if name in OF_MANY else cases
    return (*cases, OTHERS[0], OTHERS[1 + ONE_OF_EACH.index(name) % 2]) if name in ONE_OF_EACH else cases


ZEROS = ["zero0", "zero0-bf16", "zero1", "zero1-bf16-fp32", "zero2", "zero2-offload"]
ZEROS += ["zero3-sub-groups", "zero3-offload"]
ZEROS = [name for name in ZEROS if name in DEEPSPEED]  # older versions lack some
SAVES = {
    2: ["ddp", "fsdp1", "fsdp2", "tensor-parallel", *ZEROS],
    4: ["fsdp1-on-4", "fsdp2-on-4", "hsdp", "fsdp2-tensor-parallel"],
}
LOADS = {
    1: {
        "fsdp1-on-4": "single",
        "fsdp2-on-4": "single",
        "hsdp": "single",
        "ddp": "single",
        "fsdp1": "fsdp2",
        "zero0": "zero0",
    },
    2: {
        "fsdp1-on-4": "fsdp1",
        "fsdp2-on-4": "fsdp2",
        "hsdp": "fsdp2",
        "fsdp2-tensor-parallel": "fsdp2",
        **{name: name for name in SAVES[2]},
    },
}
"""World size -> what was saved -> the layout that it is loaded into."""

REFUSED = {1: {"zero1": "zero1", "zero1-bf16-fp32": "zero1-bf16-fp32", "zero2": "zero2", "zero3-sub-groups": "zero3"}}
REFUSED = {world: {name: into for name, into in plan.items() if name in DEEPSPEED} for world, plan in REFUSED.items()}
"""The same, where the backend can't."""


class Run:
    """One layout and case beside the twin."""

    def __init__(self, layout: str, case: str) -> None:
        self.wrapped: Wrapped = {**TORCH, **DEEPSPEED}[layout][1](CASES[case], tensors())
        self.blocks = [[t.to(self.wrapped.dtype) for t in block] for block in tensors()]
        self.start = [t for block in self.blocks for t in block]
        self.oracle = Oracle(CASES[case], self.start)
        self.wrong: list[Any] = []

    def step(self, first: int, last: int, only_the_twin: bool = False) -> None:
        for t, row in enumerate(gradients(self.start, STEPS)[first:last], first):
            # all are there: what a backend makes of a missing one is not this test's business
            grads = gradients_without_gaps(row, self.start, t)
            self.oracle.step([g.to(self.wrapped.dtype) for g in grads])
            if only_the_twin:
                continue
            self.wrapped.step([g.to(self.wrapped.dtype) for g in grads])
            self.compare(t)

    def compare(self, t: int) -> None:
        mine = [group["last_choice"] for group in self.wrapped.optimizer.param_groups]
        if mine != self.oracle.choices():
            self.wrong.append([t, mine, self.oracle.choices()])

    def result(self) -> dict[str, Any]:
        with torch.no_grad():
            found = [p.detach().clone().reshape(-1) for p in self.wrapped.full()]
            pairs = zip(found, self.oracle.params, strict=True)
            distance = max(float((p - q.reshape(-1)).abs().max()) for p, q in pairs)
        digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in found)).hexdigest()
        return {"wrong": self.wrong[:3], "distance": distance, "digest": digest}


def gradients_without_gaps(row: list[Tensor | None], like: list[Tensor], t: int) -> list[Tensor]:
    """``row`` with something of its own in the place of each missing gradient."""
    generator = torch.Generator().manual_seed(t)
    return [torch.randn(p.shape, generator=generator) if g is None else g for g, p in zip(row, like, strict=True)]


def save(wrapped: Wrapped, path: Path) -> None:
    """As the backend's users do it."""
    if isinstance(wrapped, Zero):
        wrapped.model.save_checkpoint(str(path), tag="half")
    else:
        model, optimizer = get_state_dict(wrapped.model, wrapped.optimizer)
        dcp.save({"model": model, "optimizer": optimizer}, checkpoint_id=path)


def load(wrapped: Wrapped, path: Path) -> None:
    if isinstance(wrapped, Zero):
        wrapped.model.load_checkpoint(str(path), tag="half")
    else:
        model, optimizer = get_state_dict(wrapped.model, wrapped.optimizer)
        # the default drops what other ranks hold of FSDP1's parameters, and then misses it, with any optimizer
        planner = dcp.DefaultLoadPlanner(flatten_sharded_tensors=False)
        dcp.load({"model": model, "optimizer": optimizer}, checkpoint_id=path, planner=planner)
        set_state_dict(wrapped.model, wrapped.optimizer, model_state_dict=model, optim_state_dict=optimizer)


def saved(layout: str, case: str, out: Path) -> dict[str, Any]:
    run = Run(layout, case)
    run.step(0, SAVED)
    save(run.wrapped, out / layout / case)
    run.step(SAVED, STEPS)
    return run.result()


def loaded(layout: str, into: str, case: str, out: Path) -> dict[str, Any]:
    run = Run(into, case)
    run.step(0, SAVED, only_the_twin=True)
    load(run.wrapped, out / layout / case)
    run.compare(SAVED - 1)
    run.step(SAVED, STEPS)
    return run.result()


def main(action: str, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    world = dist.get_world_size()
    plan = {name: name for name in SAVES[world]} if action == "save" else LOADS[world] | REFUSED.get(world, {})
    results = {}
    for layout, into in plan.items():
        for case in cases_of(layout, into) if layout not in REFUSED.get(world, {}) else SOME_CASES[:1]:
            try:
                done = saved(layout, case, out) if action == "save" else loaded(layout, into, case, out)
            except (Exception, CheckpointException):  # which is a BaseException
                done = {"error": traceback.format_exc()}
            results[f"{layout}/{case}"] = done
    (out / f"{action}-on-{world}-rank{dist.get_rank()}.json").write_text(json.dumps(results))
    leave()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
