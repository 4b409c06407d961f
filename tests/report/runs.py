"""Choices files of made-up runs, written by the real writer."""

import json
from pathlib import Path

import numpy as np

from gap_hf.candidate import Candidate
from gap_hf.choices.format import FILENAME, MIXES, TYPES, Header, HeaderGroup
from gap_hf.choices.writer import ChoiceWriter

from ..choices.files import adams

MODULES = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


def lora_names(layers: int) -> list[str]:
    """What PEFT calls the adapters of ``layers`` Llama layers: 14 parameters each."""
    return [
        f"base_model.model.model.layers.{layer}.{block}.{module}.lora_{matrix}.default.weight"
        for layer in range(layers)
        for block, modules in MODULES.items()
        for module in modules
        for matrix in "AB"
    ]


def write_run(
    run_dir: Path,
    names: list[list[str]],
    steps: int,
    type: str = "switch_parameter_wise",
    candidates: tuple[str | Candidate, ...] = ("0.8", "0.99"),
    reset_every: int = 0,
    start: int = 0,
    seed: int = 0,
    margins: bool = True,
    weights: tuple[float, ...] | None = None,
    chosen: np.ndarray | None = None,
    margin: float | None = None,
) -> np.ndarray:
    """Write (or, with ``start``, continue) a run of parameter groups with these names; return its choices (T, P).

    ``weights`` are the constant ones of a mix; without them they follow the scores. ``chosen`` and ``margin`` are given
    where they are not to be random.
    """
    rng = np.random.default_rng(seed)
    together, K = not TYPES[type], len(candidates)
    columns = 1 if together else sum(map(len, names))
    # each column leans to one side and changes its mind slowly, as real runs do
    walk = rng.normal(size=(steps, columns)).cumsum(axis=0) / max(steps, 1) ** 0.5 + rng.normal(size=columns)
    shared = np.exp(2 * np.sin(walk[..., None] + np.arange(K)))
    shared /= shared.sum(axis=-1, keepdims=True)
    if type in MIXES:
        chosen = np.full((steps, columns), np.argmax(weights)) if weights else shared.argmax(axis=-1)
    elif chosen is None:
        chosen = np.clip(((walk + 1.5) / 3 * K).astype(int), 0, K - 1)
    listed = [one if isinstance(one, Candidate) else adams(one)[0] for one in candidates]
    constant = list(weights) if weights else None
    header = Header(start, type, "beta1", [HeaderGroup(listed, group, constant) for group in names])
    writer = ChoiceWriter(run_dir / FILENAME, header)
    ends = np.cumsum([len(group) for group in names])[:-1]
    for row, choice in enumerate(chosen.tolist()):
        due = reset_every and (row + 1) % reset_every == 0
        of_step = shared[row] if type in MIXES and not weights else None
        if together:
            scores = None if weights else rng.normal(size=K).tolist()
            if margin is not None:
                scores = [1 + margin if k == choice[0] else 1 - margin for k in range(K)]
            by_group = None if of_step is None else [of_step[0]] * len(names)
            writer.write(start + row + 1, choice * len(names), bool(due), scores, None, by_group)
        else:
            groups = [part.tolist() for part in np.split(np.array(choice), ends)]
            leads = [part.tolist() for part in np.split(rng.beta(1, 4, size=columns), ends)]
            if margin is not None:
                leads = [[margin] * len(part) for part in groups]
            resets = [[0, row % len(names[0])]] if due else []
            known = margins and K > 1 and type not in MIXES
            by_group = None if of_step is None else np.split(of_step, ends)
            writer.write(start + row + 1, groups, resets, None, leads if known else None, by_group)
    writer.close()
    return chosen


def write_log(
    run_dir: Path,
    losses: list[float],
    evaluations: dict[int, float] | None = None,
    every: int = 5,
    **logged: list[float],
) -> None:
    """A Trainer's state with these training losses, every fifth step, and evaluation losses by step.

    ``logged`` are values of ``gap/...`` beside the training losses.
    """
    history = [
        {"step": every * (i + 1), "loss": loss, "epoch": 0.1, **{f"gap/{key}": one[i] for key, one in logged.items()}}
        for i, loss in enumerate(losses)
    ]
    history += [{"step": step, "eval_loss": loss, "eval_runtime": 1.0} for step, loss in (evaluations or {}).items()]
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "trainer_state.json").write_text(
        json.dumps({"log_history": history, "global_step": every * len(losses)})
    )
