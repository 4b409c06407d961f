"""The line that says that one candidate does nearly all of the work."""

import sys

import numpy as np
import pytest
import torch

import gap_hf
from gap_hf.candidate import Candidate
from gap_hf.choices.dominance import STRETCH, Dominance
from gap_hf.trainer.presets import options_of

from ..tiny import run
from .files import adams

FOUR = [adams("0.8", "0.99")] * 2
COUNTS = [3, 1]


def tell(dominance: Dominance, rows: list[list[np.ndarray]]) -> None:
    for step, choices in enumerate(rows, 1):
        dominance.count(step, choices)


def rows_with(others: int, steps: int = STRETCH) -> list[list[np.ndarray]]:
    """Steps of three parameters and one, in which ``others`` choices are not the first candidate."""
    flat = np.zeros(4 * steps, dtype=int)
    flat[:others] = 1
    return [[row[:3], row[3:]] for row in np.random.default_rng(0).permutation(flat).reshape(steps, 4)]


def test_it_is_told_once(caplog):
    dominance = Dominance(FOUR, COUNTS, "beta1", speaks=True)
    tell(dominance, rows_with(12, STRETCH) * 3)
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith("in the 100 steps up to step 100, beta1=0.8 made up 97 % of all choices. ")
    assert "optim_args='type=default,betas=0.8' would most likely do nearly the same with less memory" in said
    assert said.endswith("This is said once.")
    assert "\n" not in said


@pytest.mark.parametrize(("others", "told"), [(19, True), (20, False), (200, False), (381, True)])
def test_the_limit_is_95_per_cent_of_a_stretch(caplog, others, told):
    tell(Dominance(FOUR, COUNTS, "beta1", speaks=True), rows_with(others))
    assert len(caplog.records) == told
    assert not told or f"beta1={'0.8' if others < 200 else '0.99'} made up" in caplog.text


def test_each_stretch_is_looked_at_by_itself(caplog):
    """An even beginning does not hide what comes then; nor is a stretch told that has only begun."""
    dominance = Dominance(FOUR, COUNTS, "beta1", speaks=True)
    tell(dominance, rows_with(200) + rows_with(0, STRETCH - 1))
    assert caplog.text == ""
    dominance.count(200, rows_with(0, 1)[0])
    assert "in the 100 steps up to step 200, beta1=0.8 made up 100 % of all choices" in caplog.text


def test_one_choice_for_all_counts_for_each_parameter(caplog):
    dominance = Dominance(FOUR, COUNTS, "momentum", speaks=True)
    tell(dominance, [[np.array(0), np.array(0)]] * STRETCH)
    assert "momentum=0.8 made up 100 % of all choices" in caplog.text
    assert "type=default,momentum=0.8" in caplog.text


def test_groups_with_other_candidates(caplog):
    """The same candidate at another place in a group's list is the same."""
    tell(Dominance([adams("0.8", "0.9"), adams("0.5", "0.8")], [1, 1], "beta1", speaks=True),
         [[np.array([0]), np.array([1])]] * STRETCH)  # fmt: skip
    assert "beta1=0.8 made up 100 % of all choices" in caplog.text


@pytest.mark.parametrize(
    "given",
    [
        {"speaks": False},
        {"candidates": [adams("0.8")] * 2},  # nothing to choose
        {"candidates": []},
    ],
)
def test_when_nothing_is_said(caplog, given):
    given = {"candidates": FOUR, "counts": COUNTS, "name": "beta1", "speaks": True} | given
    tell(Dominance(**given), rows_with(0) if given["candidates"] else [[]] * STRETCH)
    assert caplog.text == ""


@pytest.mark.parametrize("label", ["0.8", "0.9/0.99"])
def test_the_advice_can_be_followed(caplog, label):
    """A candidate's own beta2 is part of it."""
    tell(Dominance([adams(label, "0.99/0.9")], [4], "beta1", speaks=True), [[np.zeros(4, int)]] * STRETCH)
    advice = caplog.text.partition("optim_args='")[2].partition("'")[0]
    betas = options_of("gap_adamw", advice)["betas"]
    beta1, _, beta2 = label.partition("/")
    assert betas == [(float(beta1), float(beta2 or 0.999))]


def test_what_has_no_value_gets_no_advice(caplog):
    candidates = [[Candidate("muon", None, "muon"), *adams("0.9")]]
    tell(Dominance(candidates, [4], "beta1", speaks=True), [[np.zeros(4, int)]] * STRETCH)
    assert "muon made up 100 % of all choices" in caplog.text
    assert "optim_args" not in caplog.text


# ---------------------------------------------------------------- through a recorder
@pytest.mark.parametrize(
    ("type", "told"),
    [
        ("switch", True),
        ("switch_parameter_wise", True),
        ("mix", False),
        ("first", False),
    ],
)
def test_it_is_about_choosing(tmp_path, caplog, type, told):
    """A control and a mix do not choose."""
    record_noise(tmp_path, type)
    assert len(caplog.records) == told


def record_noise(path, type: str) -> None:
    """Gradients that have nothing in common: the shortest memory is always the nearest to them."""
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 200)
    optimizer = gap_hf.GapAdamW(model.parameters(), betas=[(0.5, 0.999), (0.99, 0.999)], type=type)
    with gap_hf.Recorder(optimizer, model, path) as recorder:
        for step in range(1, STRETCH + 21):
            for p in model.parameters():
                p.grad = torch.randn(p.shape)
            optimizer.step()
            recorder.add(step)


def test_only_the_first_process_says_it(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    done = run([*torchrun, "-m", "tests.choices.dominated", tmp_path], timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    shares = [float(line.split(": ")[1]) for line in done.stdout.splitlines() if line.startswith("rank ")]
    assert len(shares) == 2
    assert min(shares) > 0.95, "both had something to say"
    assert done.stderr.count("This is said once.") == 1
