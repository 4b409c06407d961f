"""The choice is made twice, in Python and in C: both on scores that are made to tell them apart."""

import ctypes
import itertools
import math
import random
import subprocess

import pytest
import torch

from gap_hf.optim.choice import TIE, average, choose
from gap_hf.optim.kernels import build
from gap_hf.optim.kernels.fused_cpu import Job

from .twins import KERNELS

pytestmark = pytest.mark.skipif("fused" not in KERNELS, reason="no C compiler here")
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
                "one", "choose_for_one(job, J, choice, negative)",
                [("const struct job *", "job"), ("double *", "J"), ("int64_t *", "choice"), ("int64_t *", "negative")],
            ),
            (
                "all", "choose_for_all(job, J, J_bar, choice, negative)",
                [("const struct job *", "job"), ("double *", "J"), ("double *", "J_bar"), ("int64_t *", "choice"),
                 ("int64_t *", "negative")],
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


@pytest.mark.parametrize("J_ema", [0.0, 0.9])
def test_both_choose_alike(library, J_ema):
    found = 0
    for J in (torch.tensor(values, dtype=torch.float64) for values in scores()):
        K = len(J)
        job = Job(K=K, threshold=2, J_ema=J_ema, tie=TIE)
        for before, count in ((0, 0), (K - 1, 1)):
            candidate, negative = torch.tensor(before), torch.tensor(count)
            counts = J.isfinite().all()
            expected = choose(J, J, counts, candidate, negative, 2)
            mine, counted = candidate.clone(), negative.clone()
            reset = library.one(ctypes.byref(job), pointer(J), pointer(mine), pointer(counted))
            assert (mine, counted, bool(reset)) == (expected.candidate, expected.negative_steps, expected.reset), J
            J_bar = torch.linspace(-1, 1, K, dtype=torch.float64)
            averaged = average(J, counts, J_bar, J_ema)
            expected = choose(J, averaged, counts, candidate, negative, 2)
            mine, counted, bar = candidate.clone(), negative.clone(), J_bar.clone()
            reset = library.all(ctypes.byref(job), pointer(J), pointer(bar), pointer(mine), pointer(counted))
            assert (mine, counted, bool(reset)) == (expected.candidate, expected.negative_steps, expected.reset), J
            assert torch.equal(bar, averaged), J
            found += 1
    assert found > 2000
