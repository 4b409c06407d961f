"""Fuzzing choices files: whatever is in them, they are read or refused, and a run that goes on in one loses nothing."""

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gap_hf.candidate import Candidate
from gap_hf.choices import read_choices
from gap_hf.choices.format import FILENAME, MIXES, Header, HeaderGroup, read_header
from gap_hf.choices.writer import ChoiceWriter
from gap_hf.report.summary import summarise
from gap_hf.report.verdict import verdict

from ..choices.files import OLD, adams
from .mutate import mutated, mutated_bytes

HEADERS = [
    Header(
        start=0,
        type="switch_parameter_wise",
        candidate="beta1",
        groups=[
            HeaderGroup(adams("0.8", "0.99"), ["layers.0.weight", "layers.1.weight"]),
            HeaderGroup([*adams("0.5/0.9", "0.9/0.99"), Candidate("other", None, "own")], ["layers.0.bias"]),
        ],
    ),
    Header(
        start=0,
        type="switch",
        candidate="momentum",
        groups=[HeaderGroup([Candidate(f"{m}", m, "sgdm") for m in (0.5, 0.9, 0.99)], ["weight", "bias"])],
    ),
    Header(
        start=0,
        type="mix",
        candidate="beta1",
        groups=[HeaderGroup(adams("0", "0.9"), ["weight"], [0.3, 0.7]), HeaderGroup(adams("0", "0.9"), ["bias"])],
    ),
    Header(
        start=0,
        type="mix_parameter_wise",
        candidate="beta1",
        groups=[HeaderGroup(adams("0", "0.9"), ["weight", "bias"]), HeaderGroup(adams("0.5", "0.9", "0.99"), ["x"])],
    ),
]


def rng_weights(rng: random.Random, rows: int, K: int) -> np.ndarray:
    """Weights that add up to 1, row by row."""
    table = np.array([[rng.random() + 1e-3 for _ in range(K)] for _ in range(rows)])
    return table / table.sum(axis=1, keepdims=True)


def write(header: Header, path: Path, start: int, end: int, rng: random.Random) -> list[list[int]]:
    """Steps ``start + 1`` to ``end`` of a run; returns what they chose."""
    sizes = [len(group.parameters) for group in header.groups]
    counts = [len(group.candidates) for group in header.groups]
    chosen: list[list[int]] = []
    writer = ChoiceWriter(path, header._replace(start=start))
    for step in range(start + 1, end + 1):
        weights = None
        if header.mixes and not header.per_parameter:
            weights = [rng_weights(rng, 1, counts[0])[0]]
        elif header.mixes:
            weights = [rng_weights(rng, size, K) for size, K in zip(sizes, counts, strict=True)]
        if not header.per_parameter:
            scores = [rng.choice([rng.uniform(-1, 1), float("nan")]) for _ in range(counts[0])]
            choices: list[Any] = [rng.randrange(counts[0])]
            writer.write(step, choices, rng.random() < 0.3, scores, None, weights)
            chosen.append(choices)
        else:
            choices = [[rng.randrange(K) for _ in range(size)] for size, K in zip(sizes, counts, strict=True)]
            margins = [[rng.choice([rng.random(), float("nan")]) for _ in range(size)] for size in sizes]
            resets = [[g, rng.randrange(size)] for g, size in enumerate(sizes) if rng.random() < 0.3]
            writer.write(step, choices, resets, None, None if header.mixes else margins, weights)
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
    headers = list(HEADERS)
    for old in sorted(OLD.rglob(FILENAME)):
        files.append(old.read_bytes())
        headers.append(read_header(json.loads(files[-1].split(b"\n")[0])))

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
            chosen = write(headers[which], path, start, start + 3, rng)
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
    for candidate in (candidate for one in choices.candidates for candidate in one):
        assert isinstance(candidate.family, str)
        assert candidate.value is None or np.isfinite(candidate.value)
    assert choices.choices.dtype.kind == "i"
    assert (choices.choices >= 0).all()
    assert (choices.choices < np.array([len(labels) for labels in choices.labels])).all()
    assert choices.margins.dtype == np.float64
    assert all(step in choices.steps and 0 <= i < parameters for step, i in choices.resets)
    assert (choices.weights is None) == (choices.type not in MIXES)
    if choices.weights is not None:
        assert choices.weights.shape == (steps, parameters, max(map(len, choices.candidates)))
        assert np.allclose(choices.weights.sum(axis=2), 1, atol=0.11)
    assert len(summarise(choices)) >= 1
    assert verdict(choices)
