"""Gather every layout's whole state half way, and go on from it in every other; write what happened as JSON.

Started on every rank, first to save on each number of processes, then to load (on the last one in the same launch):
python -m torch.distributed.run --standalone --nproc_per_node N -m tests.sharding.run_portable OUT {save,load} ...
"""

import hashlib
import json
import os
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import gap_hf
from gap_hf.choices.naming import plain_name

from .bag import CASES, Oracle, gradients, tensors
from .layouts import DDP, FSDP1, FSDP2, HSDP, FSDP1Hybrid, Single, Wrapped
from .leaving import leave
from .run_checkpoints import gradients_without_gaps
from .zero import LAYOUTS as DEEPSPEED

SAVED, STEPS = 13, 43
ALL = bool(os.environ.get("GAP_HF_TEST_ALL"))
CUT: dict[str, Any] = {
    "ddp": DDP,
    "fsdp1": FSDP1,
    "fsdp2": FSDP2,
    **{name: DEEPSPEED[name][1] for name in ("zero1", "zero2", "zero3")},
}
LAYOUTS: dict[int, dict[str, Any]] = {1: {"single": Single, "zero3": CUT["zero3"]}, 2: CUT}
if ALL:
    LAYOUTS = {1: {"single": Single, **CUT}, 2: CUT, 4: {**CUT, "hsdp": HSDP, "fsdp1-hybrid": FSDP1Hybrid}}
"""By the number of processes."""

SOURCES = [f"{name}-{world}" for world, names in LAYOUTS.items() for name in names]
FEW = ["single-1", "fsdp1-2", "zero2-2"]
SOURCES_OF = {"adam-wise-two-beta2": SOURCES, "if_shampoo-switch": FEW, "adamw-8bit-state": FEW}
"""The cases, and where each is saved; the second one has buffers with shapes of their own, the last one codes."""


def sources(case: str, into: str) -> list[str]:
    """From where a case is loaded into a layout: from everywhere if all is tried, else from one."""
    possible, place = SOURCES_OF[case], SOURCES.index(into)
    if ALL:
        return possible
    return [possible[(place if possible is not SOURCES else 3 * place + 1) % len(possible)]]


PLAN = [(case, source, into) for case in SOURCES_OF for into in SOURCES for source in sources(case, into)]
"""Every (case, saved where, loaded where)."""


@cache
def trajectory(case: str) -> tuple[list[Any], list[list[Tensor]]]:
    """The twin's choices after each step, and its parameters at the end."""
    start = [t for block in tensors() for t in block]
    oracle, choices = Oracle(CASES[case], start), []
    for t in range(STEPS):
        oracle.step(given(t))
        choices.append(oracle.choices())
    return choices, oracle.params


@cache
def rows() -> list[list[Tensor | None]]:
    return gradients([t for block in tensors() for t in block], STEPS)


def given(t: int) -> list[Tensor]:
    """The gradients of step ``t``; none is missing, since backends differ in what they make of that."""
    return gradients_without_gaps(rows()[t], [t for block in tensors() for t in block], t)


def go_on(wrapped: Wrapped, case: str, first: int) -> dict[str, Any]:
    """Step to the end beside the twin."""
    choices, params = trajectory(case)
    wrong = []
    for t in range(first, STEPS):
        wrapped.step(given(t))
        mine = [group["last_choice"] for group in wrapped.optimizer.param_groups]
        if mine != choices[t]:
            wrong.append([t, mine, choices[t]])
    found = [p.detach().clone().reshape(-1) for p in wrapped.full()]
    distance = max(float((p - q.detach().reshape(-1)).abs().max()) for p, q in zip(found, params, strict=True))
    digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in found)).hexdigest()
    return {"wrong": wrong[:3], "distance": distance, "digest": digest}


def save(layout: str, case: str, path: Path) -> dict[str, Any]:
    wrapped: Wrapped = LAYOUTS[dist.get_world_size()][layout](CASES[case], tensors())
    for t in range(SAVED):
        wrapped.step(given(t))
    state = gap_hf.consolidated_state_dict(wrapped.optimizer, wrapped.model, weights=True)
    if dist.get_rank() == 0:
        torch.save(state, path)
    return go_on(wrapped, case, SAVED)


def load(into: str, case: str, path: Path) -> dict[str, Any]:
    saved = torch.load(path, weights_only=False)
    others = [[torch.full_like(t, 0.25) for t in block] for block in tensors()]
    wrapped: Wrapped = LAYOUTS[dist.get_world_size()][into](CASES[case], others)
    gap_hf.load_consolidated_state_dict(wrapped.optimizer, wrapped.model, saved if is_first() else {})
    names = [plain_name(name) for name, _ in wrapped.model.named_parameters()]
    for found, name in zip(wrapped.full(), names, strict=True):  # the model has them, too
        assert torch.equal(found.flatten(), saved["weights"][name].flatten()), name
    return go_on(wrapped, case, SAVED)


def is_first() -> bool:
    return dist.get_rank() == 0


def run(action: str, out: Path) -> None:
    world, results = dist.get_world_size(), {}
    for case, possible in SOURCES_OF.items():
        for layout in LAYOUTS[world]:
            here = f"{layout}-{world}"
            for source in [here] * (here in possible) if action == "save" else sources(case, here):
                path = out / f"{source}-{case}.pt"
                try:
                    done = save(layout, case, path) if action == "save" else load(layout, case, path)
                except Exception:
                    done = {"error": traceback.format_exc()}
                results[f"{case}/{source}/{here}"] = done
    (out / f"{action}-{world}-rank{dist.get_rank()}.json").write_text(json.dumps(results))


def main(out: Path, actions: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for action in actions:
        run(action, out)
        dist.barrier()  # rank 0 has written what the others are to read
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
