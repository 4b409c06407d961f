"""Candidates in order, and runs in which some have no value: shares remain, means are left out."""

from dataclasses import replace

import numpy as np
import pytest

from gap_hf.candidate import Candidate
from gap_hf.choices import Choices, read_choices
from gap_hf.report.candidates import all_candidates, applied, applied_in, applied_values, display_names, values_of
from gap_hf.report.compare import choices_figure, table
from gap_hf.report.run import read_runs
from gap_hf.report.summary import shares, summarise
from gap_hf.report.write import compare_runs, plot_run

from ..choices.files import adams
from .runs import lora_names, write_run
from .test_page import Page

MUON, ADAM, SGD = Candidate("muon", None, "muon"), Candidate("0.9", 0.9, "adam"), Candidate("sgd", None, "sgdm")


def choices_among(*candidates: list[Candidate]) -> Choices:
    P = len(candidates)
    chosen = np.zeros((1, P), dtype=np.int64)
    names = [f"p{i}" for i in range(P)]
    return Choices(
        "switch_parameter_wise", "beta1", np.array([1]), chosen, names, [*candidates], [], np.full((1, P), np.nan)
    )


def test_order():
    """By value, whatever is listed first; without a value as listed, at the end."""
    choices = choices_among([MUON, *adams("0.99", "0.8")], [SGD, *adams("0.9/0.999", "0.9/0.99", "1e-05")])
    assert all_candidates(choices) == [*adams("1e-05", "0.8", "0.9/0.99", "0.9/0.999", "0.99"), MUON, SGD]


def test_same_label_of_two_families_is_two_candidates():
    momentum = Candidate("0.9", 0.9, "sgdm")
    assert all_candidates(choices_among([ADAM], [momentum])) == [ADAM, momentum]


def test_names():
    candidates = [*adams("0.8", "0.9/0.99"), MUON]
    assert display_names(choices_among(candidates), candidates) == ["beta1 = 0.8", "beta1/beta2 = 0.9/0.99", "muon"]


def test_values():
    assert values_of(adams("0.8", "0.9/0.99")).tolist() == [0.8, 0.9]
    assert values_of([ADAM, MUON]) is None


def mixed_groups() -> Choices:
    """A mix of two steps, of parameters with other candidates in another order."""
    choices = choices_among(adams("0.99", "0.8"), adams("0.5", "0.8", "0.99"))
    weights = [[[0.25, 0.75, 0], [0.5, 0.25, 0.25]], [[1, 0, 0], [0, 0.25, 0.75]]]
    return replace(
        choices,
        type="mix_parameter_wise",
        steps=np.array([1, 2]),
        choices=np.array([[1, 0], [0, 2]]),
        margins=np.full((2, 2), np.nan),
        weights=np.array(weights, np.float32),
    )


def test_weights_of_groups_with_other_candidates():
    """Each weight goes to its candidate, whatever its place in a group's list; who has no such candidate has 0."""
    choices = mixed_groups()
    candidates = all_candidates(choices)
    assert candidates == adams("0.5", "0.8", "0.99")
    assert [one.tolist() for one in applied(choices, candidates)] == [
        [[0, 0.5], [0, 0]],
        [[0.75, 0.25], [0, 0.25]],
        [[0.25, 0.25], [1, 0.75]],
    ]
    assert applied_in(choices, candidates, np.array([0])).tolist() == [[[0, 0.5]], [[0.75, 0.5]], [[1.25, 1]]]
    expected = [[0.8 * 0.75 + 0.99 * 0.25, 0.5 * 0.5 + 0.8 * 0.25 + 0.99 * 0.25], [0.99, 0.8 * 0.25 + 0.99 * 0.75]]
    assert applied_values(choices, candidates) == pytest.approx(np.array(expected))
    (row,) = summarise(choices)
    assert row.shares == pytest.approx([0.125, 0.3125, 0.5625])
    assert row.mean == pytest.approx(np.mean(expected))
    assert row.changed == 1, "the candidate with the largest weight"


def test_a_candidate_that_is_listed_twice_has_both_weights():
    choices = replace(mixed_groups(), candidates=[adams("0.8", "0.8", "0.9")] * 2)
    assert [one[0].tolist() for one in applied(choices, all_candidates(choices))] == [[1, 0.75], [0, 0.25]]


def test_picks_are_weights_of_one():
    choices = replace(mixed_groups(), type="switch_parameter_wise", weights=None)
    candidates = all_candidates(choices)
    assert [one.tolist() for one in applied(choices, candidates)] == [
        [[False, True], [False, False]],
        [[True, False], [False, False]],
        [[False, False], [True, True]],
    ]
    assert applied_values(choices, candidates).tolist() == [[0.8, 0.5], [0.99, 0.99]]
    assert applied_values(choices_among([ADAM, MUON]), [ADAM, MUON]) is None


@pytest.fixture
def run_dir(tmp_path):
    write_run(tmp_path / "mixed", [lora_names(2)], steps=30, candidates=(MUON, ADAM, SGD))
    return tmp_path / "mixed"


def test_summary(run_dir):
    choices = read_choices(run_dir)
    assert all(np.isnan(row.mean) for row in summarise(choices))
    # in the order of all_candidates
    expected = {
        name: pytest.approx((choices.choices == k).mean()) for name, k in (("beta1 = 0.9", 1), ("muon", 0), ("sgd", 2))
    }
    assert shares(choices) == expected


@pytest.mark.parametrize("type", ["switch", "switch_parameter_wise"])
def test_report(tmp_path, type):
    write_run(tmp_path, [lora_names(2)], steps=30, type=type, candidates=(MUON, ADAM, SGD))
    page = Page(plot_run(tmp_path)[-1])
    head = page.found["th"]
    assert {"beta1 = 0.9", "muon", "sgd", "changed", "median margin"} <= set(head)
    assert "mean" not in head
    assert len(page.pictures) == 4
    facts = dict(zip(page.found["dt"], page.found["dd"], strict=True))
    assert facts["candidates (beta1)"] == "0.9, muon, sgd"


def test_beside_other_runs(run_dir, tmp_path):
    """It has no line of its own among the means, and no entry; how many choices agree is told."""
    write_run(tmp_path / "again", [lora_names(2)], steps=30, candidates=(MUON, ADAM, SGD), seed=1)
    write_run(tmp_path / "adam", [lora_names(2)], steps=30)
    assert choices_figure(read_runs([run_dir, tmp_path / "again"])) is None
    runs = read_runs([run_dir, tmp_path / "again", tmp_path / "adam"])
    (axes,) = choices_figure(runs).axes
    assert [line.get_label() for line in axes.lines] == ["adam"]
    head, rows = table(runs)
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["mean applied"].split()[:1] for row in cells] == [[], [], ["beta1"]]
    assert all(row["changed"] for row in cells)
    agreed = (runs[0].choices.choices == runs[1].choices.choices).mean()
    assert [row["as the first"] for row in cells] == ["", f"{agreed:.1%}", ""]
    paths = compare_runs(runs[:2], tmp_path / "out")
    assert [path.name for path in paths] == ["gap_compare.html"], "no losses, and no means"


def test_labels_alone_do_not_make_choices_comparable(tmp_path):
    write_run(tmp_path / "adam", [["a"]], steps=5, candidates=(ADAM, *adams("0.99")))
    write_run(
        tmp_path / "sgdm", [["a"]], steps=5, candidates=tuple(Candidate(m, float(m), "sgdm") for m in ("0.9", "0.99"))
    )
    assert "as the first" not in table(read_runs([tmp_path / "adam", tmp_path / "sgdm"]))[0]
