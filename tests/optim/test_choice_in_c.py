"""The choice is made twice, in Python and in C: both on scores that are made to tell them apart."""

import ctypes
import itertools
import math
import random
import subprocess

import pytest
import torch

from gap_hf.optim.choice import average, choose
from gap_hf.optim.kernels import build
from gap_hf.optim.kernels.fused_cpu import Job
from gap_hf.optim.rules.best import TIE, Best
from gap_hf.optim.rules.mix import Mix

from .twins import needs_fused

pytestmark = needs_fused
EDGE = [1 - TIE, math.nextafter(1 - TIE, 0), math.nextafter(1 - TIE, 2), 1 - 2 * TIE, 1 + TIE, 1.0]
ODD = [0.0, -0.0, 1e-320, -1e-320, 1e300, -1e300, math.inf, -math.inf, math.nan]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The choice alone, which the library keeps to itself."""
    path = tmp_path_factory.mktemp("choice")
    source = '#include "choice.h"\n' + "\n".join(
        f"int {name}({', '.join(f'{kind} {word}' for kind, word in arguments)}) {{ return {call}; }}"
        for name, call, arguments in [
            (
                "one", "choose_for_one(job, J, choice, weights, negative)",
                [("const struct job *", "job"), ("double *", "J"), ("int64_t *", "choice"), ("double *", "weights"),
                 ("int64_t *", "negative")],
            ),
            (
                "all", "choose_for_all(job, J, J_bar, choice, weights, negative)",
                [("const struct job *", "job"), ("double *", "J"), ("double *", "J_bar"), ("int64_t *", "choice"),
                 ("double *", "weights"), ("int64_t *", "negative")],
            ),
        ]
    )  # fmt: skip
    (path / "choice.c").write_text(source)
    flags = ["-I", build.SOURCE.parent, path / "choice.c", "-o", path / "choice.so", *build.FLAGS]
    subprocess.run([build.compiler(), *flags], check=True)
    return ctypes.CDLL(str(path / "choice.so"))


def scores():
    """Pairs and triples at the edge of a tie, of either sign and every size, and what is no number."""
    for size, near in itertools.product([1.0, -1.0, 3e-200, -7e200, 1e-310], EDGE):
        yield [size, size * near]
        yield [size * near, size]
        yield [size * near, size, size * near * near]
    generator = random.Random(0)
    for _ in range(500):  # the bound itself, as it is rounded
        largest = generator.uniform(-1, 1) * 10.0 ** generator.randint(-30, 30)
        yield [largest - TIE * abs(largest), largest]
    for triple in itertools.product([*ODD, 1.0, -1.0], repeat=3):
        yield list(triple)


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def same(mine: dict, reset: int, expected) -> bool:
    """Whether everything is the same, and weights up to the rounding of their sum."""
    for key, right in expected.kept.items():
        if key != "last_weights" and not torch.equal(mine[key], right):
            return False
        if key == "last_weights" and not torch.allclose(mine[key], right, rtol=1e-15, atol=1e-15):
            return False
    return bool(reset) == bool(expected.reset)


@pytest.mark.parametrize("J_ema", [0.0, 0.9])
@pytest.mark.parametrize("kind", [Best, Mix])
def test_both_choose_alike(library, kind, J_ema):
    found, number = 0, torch.tensor(0)
    for J in (torch.tensor(values, dtype=torch.float64) for values in scores()):
        K, decays = len(J), [0.5, 0.9, 0.99][: len(J)]
        rule = kind({"weights": "score"}, decays)
        constant = torch.tensor(rule.weights or [0.0] * K, dtype=torch.float64)
        job = Job(K=K, threshold=2, J_ema=J_ema, tie=TIE, mixes=kind is Mix, constant=constant.data_ptr())
        for before, count in ((0, 0), (K - 1, 1)):
            kept = {"last_choice": torch.tensor(before), "negative_steps": torch.tensor(count)}
            if kind is Mix:
                kept["last_weights"] = torch.linspace(0.1, 0.2, K, dtype=torch.float64)
            counts = J.isfinite().all()
            mine = {key: value.clone() for key, value in kept.items()}
            weights = mine.get("last_weights", constant)
            place = [pointer(mine["last_choice"]), pointer(weights), pointer(mine["negative_steps"])]
            reset = library.one(ctypes.byref(job), pointer(J), *place)
            assert same(mine, reset, choose(rule, J, J, counts, kept, number, 2)), J
            J_bar = torch.linspace(-1, 1, K, dtype=torch.float64)
            averaged, bar = average(J, counts, J_bar, J_ema), J_bar.clone()
            for key, value in kept.items():
                mine[key].copy_(value)
            reset = library.all(ctypes.byref(job), pointer(J), pointer(bar), *place)
            assert same(mine, reset, choose(rule, J, averaged, counts, kept, number, 2)), J
            assert torch.equal(bar, averaged), J
            found += 1
    assert found > 2000
