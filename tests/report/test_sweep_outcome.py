"""The numbers and the table of a sweep, from made-up runs."""

import json
import math

import pytest

from gap_hf.report.paired import difference
from gap_hf.report.run import Run
from gap_hf.report.write import compare_runs
from gap_hf.sweep import Outcome, edge_note, findings, table

from .sweeps import around, finished, outcome

RATES = {
    "gap_adamw": {1e-3: [2.0, 2.2], 2e-3: [1.0, 1.4], 4e-3: [1.6, 1.6]},
    "beta1=0.8": {1e-3: [2.0, 2.1], 2e-3: [1.1, 1.2], 4e-3: [0.9, 1.0]},
    "beta1=0.9": {1e-3: [1.3, 1.4], 2e-3: [1.2, 1.2], 4e-3: [3.0, 3.0]},
}
"""GAP is best at 2e-3, 0.8 at the edge, and 0.9 at 2e-3."""


def rows_of(found: Outcome) -> dict[str, dict[str, str]]:
    """The table's cells by the first word of their row and by title."""
    head, rows = table(found)
    return {row[0].split()[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_one_learning_rate(tmp_path):
    """Means and standard deviations over the seeds; the regret is paired: the seeds' shift is not in its interval."""
    losses = {"gap_adamw": [1.0, 2.0, 3.0], "beta1=0.8": [1.1, 2.3, 3.2], "beta1=0.9": [0.9, 1.8, 3.0]}
    found = outcome(tmp_path, losses)
    head, rows = table(found)
    assert head == ["", "loss, last 10 logs", "evaluation loss", "regret ± 95 %", "seconds"]
    assert [row[0] for row in rows] == ["gap_adamw", "beta1=0.8 (smallest candidate)", "beta1=0.9 (best fixed)"]
    apart = difference(dict(enumerate(losses["gap_adamw"])), dict(enumerate(losses["beta1=0.9"])))
    assert rows[0][1:] == ["3.0000 ± 1.0000", "2.0000 ± 1.0000", f"+0.1000 ± {apart.half:.4f}", "2"]
    assert rows[2][3] == ""


def test_one_seed_has_no_intervals(tmp_path):
    head, rows = table(outcome(tmp_path, {"gap_adamw": [1.0], "beta1=0.8": [1.5]}))
    assert "regret" in head
    assert rows[0][1:4] == ["2.0000", "1.0000", "-0.5000"]
    assert rows[1][0] == "beta1=0.8 (best fixed, smallest candidate)"


def test_each_at_its_own_best_learning_rate(tmp_path):
    found = outcome(tmp_path, RATES)
    rows = rows_of(found)
    assert {name: row["best lr"] for name, row in rows.items()} == {
        "gap_adamw": "0.002",
        "beta1=0.8": "0.004 (edge)",
        "beta1=0.9": "0.002",
    }
    assert rows["gap_adamw"]["evaluation loss"].startswith("1.2000")
    assert rows["gap_adamw"]["regret ± 95 %"].startswith("+0.2500 ± ")
    assert edge_note(found) == "(edge): this optimum is at the edge of the grid: extend it, with --lr 0.008."


def test_transfer_is_at_the_learning_rate_of_nine(tmp_path):
    """0.8 is best elsewhere, but somebody who tuned 0.9 does not know."""
    rows = rows_of(outcome(tmp_path, RATES))
    column = "against beta1=0.9 at its lr ± 95 %"
    assert rows["beta1=0.8"][column].startswith("-0.0500 ± ")
    assert rows["gap_adamw"][column].startswith("+0.0000 ± ")
    assert rows["beta1=0.9"][column] == ""


def test_without_nine_nothing_is_transferred(tmp_path):
    head, _ = table(outcome(tmp_path, {name: rates for name, rates in RATES.items() if name != "beta1=0.9"}))
    assert not [title for title in head if title.startswith("against")]


def test_edge_at_the_lower_end(tmp_path):
    rising = {1e-3: [1.0], 3e-3: [2.0], 1e-2: [3.0]}
    found = outcome(tmp_path, {"gap_adamw": rising, "beta1=0.8": {**rising, 1e-2: [0.5]}})
    assert [found.edge(contender) for contender in found.contenders] == pytest.approx([1e-3 / 3, 1e-2 * 10 / 3])


def test_no_edge_without_a_grid(tmp_path):
    assert edge_note(outcome(tmp_path, {"gap_adamw": [1.0], "beta1=0.8": [2.0]})) is None


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_learning_rate_at_which_a_seed_diverged_is_not_the_best(tmp_path, lost):
    losses = {"gap_adamw": {1e-3: [1.0, 1.0], 2e-3: [0.1, lost]}, "beta1=0.9": {1e-3: [lost, lost], 2e-3: [1.0, 1.0]}}
    rows = rows_of(outcome(tmp_path, losses))
    assert rows["gap_adamw"]["best lr"].startswith("0.001")
    assert rows["gap_adamw"]["against beta1=0.9 at its lr ± 95 %"] == "diverged"


def test_diverged_everywhere(tmp_path):
    found = outcome(tmp_path, {"gap_adamw": [1.0, 1.0], "beta1=0.8": [1.0, 1.2], "beta1=0.99": [1.0, math.nan]})
    row = rows_of(found)["beta1=0.99"]
    assert (row["evaluation loss"], row["regret ± 95 %"]) == ("diverged", "")
    assert found.best_fixed().name == "beta1=0.8"
    assert found.scale() is None


def test_trainer_logs_zero_for_a_run_that_diverged(tmp_path):
    """It leaves losses that are not finite out of its means; the gradients' norms tell."""
    members, runs = finished(tmp_path, {"gap_adamw": [1.0], "beta1=0.8": [1.0]})
    for run in runs:
        run.log = [{"step": step, "loss": 1.0, "grad_norm": 2.0} for step in range(5)]
    runs[0].log = [{"step": step, "loss": 0.0, "grad_norm": math.nan} for step in range(5)]
    assert rows_of(Outcome(members, runs))["gap_adamw"]["loss, last 10 logs"] == "diverged"
    runs[0].log[-1]["grad_norm"] = 1.0  # a step that was skipped is no divergence
    assert rows_of(Outcome(members, runs))["gap_adamw"]["loss, last 10 logs"] == "0.0000"


def test_without_evaluations_the_training_losses_are_compared(tmp_path):
    members, runs = finished(tmp_path, {"gap_adamw": [1.0, 2.0], "beta1=0.8": [2.0, 3.5]})
    runs[-1].log = [row for row in runs[-1].log if "loss" in row]
    found = Outcome(members, runs)
    assert found.at_best(found.gap) == {0: 2.0, 1: 3.0}
    assert found.regret(found.gap).mean == pytest.approx(-1.25)


def test_runs_without_any_loss(tmp_path):
    members, runs = finished(tmp_path, {"gap_adamw": [1.0], "beta1=0.8": [1.0]})
    rows = rows_of(Outcome(members, [Run(run.name, run.directory, None, []) for run in runs]))
    assert rows["gap_adamw"] == {"": "gap_adamw", "seconds": "2"}


def test_the_page_has_table_and_conclusion(tmp_path):
    losses = {"gap_adamw": around(1.0), "beta1=0.8": around(1.0, wobble=0), "beta1=0.9": around(1.3)}
    found = outcome(tmp_path, losses)
    paths = compare_runs(found.best_runs(), tmp_path / "out", findings=findings(found))
    assert [path.name for path in paths] == ["gap_compare_loss.png", "gap_compare_loss.svg", "gap_compare.html"]
    page = paths[-1].read_text()
    assert "<dt>conclusion</dt><dd>Choosing did not matter here: " in page
    assert page.index("Did it help?") < page.index("Numbers")
    assert "beta1=0.8 (best fixed, smallest candidate)" in page


def test_picture_and_page_of_several_learning_rates(tmp_path):
    """The picture has a line per contender; the page shows the runs at the best learning rates only."""
    losses = {**RATES, "beta1=0.99": {1e-3: [500.0, 600.0], 2e-3: [math.nan, 1.0], 4e-3: [math.nan, math.nan]}}
    found = outcome(tmp_path, losses)
    added = findings(found)
    (axes,) = added.pictures["gap_sweep_lr"].figure.axes
    assert [bars.get_label() for bars in axes.containers] == list(losses)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.001", "0.002", "0.004"]
    low, top = axes.get_ylim()
    assert low < 0.95 < 2.0 < top < 100, "what diverges is cut off"
    paths = compare_runs(found.best_runs(), tmp_path / "out", findings=added)
    assert {path.name for path in paths} >= {"gap_sweep_lr.png", "gap_sweep_lr.svg"}
    page = paths[-1].read_text()
    assert "extend it, with --lr" in page
    assert "gap_adamw-lr0.002-seed1" in page
    assert "gap_adamw-lr0.001-seed1" not in page


def test_seconds_are_means(tmp_path):
    members, runs = finished(tmp_path, {"gap_adamw": [1.0, 1.0], "beta1=0.8": [1.0, 1.0]})
    (members[0].directory / "sweep_done.json").write_text(json.dumps({"command": [], "seconds": 8.0}))
    assert rows_of(Outcome(members, runs))["gap_adamw"]["seconds"] == "5"
