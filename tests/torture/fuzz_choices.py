"""Fuzzing choices files: whatever is in them, they are read or refused, and a run that goes on in one loses nothing."""

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gap_hf.trainer.record import FILENAME, read_choices
from gap_hf.trainer.writer import ChoiceWriter

from .mutate import mutated, mutated_bytes

HEADERS: list[dict[str, Any]] = [
    {
        "start": 0,
        "type": "switch_parameter_wise",
        "candidate": "beta1",
        "groups": [
            {"candidates": ["0.8", "0.99"], "parameters": ["layers.0.weight", "layers.1.weight"]},
            {"candidates": ["0.5/0.9", "0.9/0.99", "0.99/0.999"], "parameters": ["layers.0.bias"]},
        ],
    },
    {
        "start": 0,
        "type": "switch",
        "candidate": "momentum",
        "groups": [{"candidates": ["0.5", "0.9", "0.99"], "parameters": ["weight", "bias"]}],
    },
]


def write(header: dict[str, Any], path: Path, start: int, end: int, rng: random.Random) -> list[list[int]]:
    """Steps ``start + 1`` to ``end`` of a run; returns what they chose."""
    sizes = [len(group["parameters"]) for group in header["groups"]]
    counts = [len(group["candidates"]) for group in header["groups"]]
    switch, chosen = header["type"] == "switch", []
    writer = ChoiceWriter(path, {**header, "start": start})
    for step in range(start + 1, end + 1):
        if switch:
            scores = [rng.choice([rng.uniform(-1, 1), float("nan")]) for _ in range(counts[0])]
            choices: list[Any] = [rng.randrange(counts[0])]
            writer.write(step, choices, rng.random() < 0.3, scores)
            chosen.append(choices)
        else:
            choices = [[rng.randrange(K) for _ in range(size)] for size, K in zip(sizes, counts, strict=True)]
            margins = [[rng.choice([rng.random(), float("nan")]) for _ in range(size)] for size in sizes]
            resets = [[g, rng.randrange(size)] for g, size in enumerate(sizes) if rng.random() < 0.3]
            writer.write(step, choices, resets, None, margins)
            chosen.append([choice for group in choices for choice in group])
    writer.close()
    return chosen


def prepare(seed: int, out: Path) -> Callable[[int], bool]:
    """A function that tries the input of a number, and says whether it was accepted."""
    logging.disable(logging.WARNING)
    path, files = out / FILENAME, []
    for g, header in enumerate(HEADERS):  # a run, and one that was resumed from the middle of it
        for start, end in ((0, 8), (5, 11)):
            write(header, out / f"{g}.jsonl", start, end, random.Random(f"choices {seed}"))
        files.append((out / f"{g}.jsonl").read_bytes())

    def attempt(n: int) -> bool:
        rng = random.Random(f"choices {seed} {n}")
        which = rng.randrange(len(files))
        data = files[which]
        if rng.random() < 0.5:
            data = with_damaged_lines(data, rng)
        if rng.random() < 0.5:
            data = mutated_bytes(data, rng)
        path.write_bytes(data)
        try:
            check(read_choices(rng.choice([path, out])))
            accepted = True
        except ValueError:
            accepted = False
        if rng.random() < 0.2:
            start = rng.randint(1, 12)
            chosen = write(HEADERS[which], path, start, start + 3, rng)
            assert path.read_bytes().startswith(data), "a run that went on has rewritten what was there"
            choices = read_choices(path)
            check(choices)
            assert choices.steps[-3:].tolist() == [start + 1, start + 2, start + 3]
            assert choices.choices[-3:].tolist() == chosen
        return accepted

    return attempt


def with_damaged_lines(data: bytes, rng: random.Random) -> bytes:
    """One or two lines say something else."""
    lines = data.split(b"\n")
    for _ in range(rng.randint(1, 2)):
        i = rng.randrange(len(lines) - 1)
        try:
            lines[i] = json.dumps(mutated(json.loads(lines[i]), rng), default=repr, skipkeys=True).encode()
        except (ValueError, RecursionError):  # one that was damaged twice
            continue
    return b"\n".join(lines)


def check(choices: Any) -> None:
    """What was read must fit together: reports index with it."""
    steps, parameters = choices.choices.shape
    assert choices.steps.shape == (steps,)
    assert steps >= 1
    assert choices.steps.dtype.kind == "i"
    assert (np.diff(choices.steps) > 0).all()
    assert choices.margins.shape == choices.choices.shape
    assert len(choices.parameters) == len(choices.labels) == parameters
    assert all(isinstance(name, str) for name in choices.parameters)
    assert all(isinstance(label, str) for labels in choices.labels for label in labels)
    assert choices.choices.dtype.kind == "i"
    assert (choices.choices >= 0).all()
    assert (choices.choices < np.array([len(labels) for labels in choices.labels])).all()
    assert choices.margins.dtype == np.float64
    assert all(step in choices.steps and 0 <= i < parameters for step, i in choices.resets)
