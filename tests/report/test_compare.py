"""Runs side by side."""

import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from typer.testing import CliRunner

import gap_hf.report.run
from gap_hf.choices import read_choices
from gap_hf.cli import app
from gap_hf.report.compare import choices_figure, table
from gap_hf.report.loss import line_styles, loss_figure
from gap_hf.report.run import read_runs
from gap_hf.report.write import compare_runs

from .runs import lora_names, write_log, write_run
from .test_cli import check_failure
from .test_plot import overlapping


@pytest.fixture
def runs(tmp_path):
    """GAP twice, and a run with another optimizer."""
    for name, seed in (("gap", 0), ("again", 1)):
        write_run(tmp_path / name, [lora_names(1)], steps=20, seed=seed)
        write_log(tmp_path / name, [3.0 - seed, 2.0, 1.0, 0.5], {20: 0.75})
    write_log(tmp_path / "adamw", [3.0] * 20 + [1.0] * 10, {0: 3.0, 75: 1.0, 150: 2.0})
    return [tmp_path / name for name in ("gap", "again", "adamw")]


def test_table(runs):
    head, rows = table(read_runs(runs))
    assert head[0] == "run"
    by_name = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert by_name["adamw"]["loss, last 10 logs"] == "1.0000"
    assert by_name["adamw"]["evaluation loss"] == "2.0000"
    assert by_name["adamw"]["best"] == "1.0000"
    assert by_name["adamw"]["steps"] == "150"
    assert by_name["adamw"]["mean applied"] == ""
    assert by_name["gap"]["loss, last 10 logs"] == f"{(3 + 2 + 1 + 0.5) / 4:.4f}"
    assert by_name["gap"]["mean applied"].startswith("beta1 0.")
    assert by_name["gap"]["as the first"] == ""
    one, other = (read_runs(runs)[i].choices.choices for i in (0, 1))
    assert by_name["again"]["as the first"] == f"{(one == other).mean():.1%}"


def test_other_parameters_are_not_compared(runs, tmp_path):
    write_run(tmp_path / "larger", [lora_names(2)], steps=20)
    assert "as the first" not in table(read_runs([runs[0], tmp_path / "larger"]))[0]


def test_steps_in_common_are_compared(runs, tmp_path):
    write_run(tmp_path / "shorter", [lora_names(1)], steps=20, seed=0)
    lines = (tmp_path / "shorter" / "gap_choices.jsonl").read_text().splitlines()
    (tmp_path / "shorter" / "gap_choices.jsonl").write_text("\n".join(lines[:8]) + "\n")
    assert table(read_runs([runs[0], tmp_path / "shorter"]))[1][1][-1] == "100.0%"


MIX = {"names": [lora_names(1)], "steps": 20, "type": "mix_parameter_wise"}


def test_mixes_are_compared_by_their_weights(tmp_path):
    write_run(tmp_path / "mix", **MIX)
    write_run(tmp_path / "again", **MIX, seed=1)
    write_run(tmp_path / "pick", [lora_names(1)], steps=20)
    runs = read_runs([tmp_path / name for name in ("mix", "again", "pick")])
    values = np.array([0.8, 0.99])
    one, other = (run.choices.weights for run in runs[:2])
    head, rows = table(runs)
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    assert [cell["mean applied"] for cell in cells[:2]] == [f"beta1 {(w @ values).mean():.4g}" for w in (one, other)]
    common = np.minimum(one, other).sum(axis=2).mean()
    assert [cell["as the first"] for cell in cells] == ["", f"{common:.1%}", ""], "a pick has no weights"
    (axes,) = choices_figure(runs).axes
    for line, weights in zip(axes.lines[:2], (one, other), strict=True):
        assert line.get_ydata() == pytest.approx((weights @ values).mean(axis=1))


def test_a_mix_that_is_no_other(tmp_path):
    for name in ("mix", "again"):
        write_run(tmp_path / name, **MIX)
    assert table(read_runs([tmp_path / "mix", tmp_path / "again"]))[1][1][-1] == "100.0%"


def test_files(runs, tmp_path):
    out = tmp_path / "out"
    paths = compare_runs(runs, out)
    assert [path.name for path in paths] == [
        "gap_compare_loss.png", "gap_compare_loss.svg", "gap_compare_choices.png", "gap_compare_choices.svg",
        "gap_compare.html",
    ]  # fmt: skip
    assert all(path.stat().st_size > 1000 for path in paths)
    without = compare_runs(runs[2:], tmp_path / "adamw_only")
    assert [path.name for path in without] == ["gap_compare_loss.png", "gap_compare_loss.svg", "gap_compare.html"]


@pytest.mark.parametrize("count", [12, 28])
def test_pictures_are_readable(tmp_path, count):
    names = [f"a_sweep_with_a_long_name/beta1={i / 100:g}" for i in range(count)]
    for i, name in enumerate(names):
        write_log(tmp_path / name, [3.0 - i / 10] * 20, {0: 3.0, 100: 2.0})
        write_run(tmp_path / name, [lora_names(1)], steps=100, seed=i)
    runs = read_runs([tmp_path / name for name in names])
    for figure in (loss_figure(runs), choices_figure(runs)):
        FigureCanvasAgg(figure).draw()
        (axes,) = figure.axes
        (legend,) = figure.legends
        assert len(legend.get_texts()) == count
        ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
        assert overlapping([*ticks, *legend.get_texts(), axes.title, axes.xaxis.label, axes.yaxis.label]) == []
        width, height = figure.canvas.get_width_height()
        for text in [*legend.get_texts(), axes.title]:
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= width
            assert box.y1 <= height
        assert axes.get_window_extent().height > 0.3 * height


def test_lines_differ():
    assert len(set(line_styles(28))) == 28


def test_directories_of_one_name_are_told_apart(tmp_path):
    for parent in "ab":
        write_log(tmp_path / parent / "run", [1.0])
    assert [run.name for run in read_runs([tmp_path / "a" / "run", tmp_path / "b" / "run"])] == ["a/run", "b/run"]


def test_state_of_the_newest_checkpoint(tmp_path):
    for step, loss in ((9, 2.0), (10, 1.0)):
        write_log(tmp_path / "run" / f"checkpoint-{step}", [loss])
    assert read_runs([tmp_path / "run"])[0].curve("loss") == ([5], [1.0])


def test_steps_are_those_that_were_taken(tmp_path):
    """Not those that were logged: of the second run only Trainer's count tells of the sixth."""
    write_run(tmp_path / "gap", [["a", "b"]], steps=6)
    write_log(tmp_path / "gap", [2.0])
    write_log(tmp_path / "adamw", [2.0])
    for name in ("gap", "adamw"):
        path = tmp_path / name / "trainer_state.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"global_step": 6}))
    head, rows = table(read_runs([tmp_path / "gap", tmp_path / "adamw"]))
    assert [row[head.index("steps")] for row in rows] == ["6", "6"]


@pytest.mark.parametrize("runs", [1, 2])
def test_single_point_is_seen(tmp_path, runs):
    """Not an empty picture, and no sum in its corner, as for two losses that are nearly the same."""
    for i in range(runs):
        write_run(tmp_path / str(i), [["a", "b"]], steps=1, seed=i)
        write_log(tmp_path / str(i), [10.64 + i * 1e-5])
    found = read_runs([tmp_path / str(i) for i in range(runs)])
    for figure in (loss_figure(found), choices_figure(found)):
        FigureCanvasAgg(figure).draw()
        (axes,) = figure.axes
        assert axes.yaxis.get_offset_text().get_text() == ""
        lines = [line for line in axes.lines if len(line.get_xdata())]
        assert len(lines) == runs
        assert all(line.get_marker() == "." for line in lines)
    write_log(tmp_path / "0", [10.64, 10.63])
    assert loss_figure(read_runs([tmp_path / "0"])).axes[0].lines[0].get_marker() == "None"


def test_losses_that_are_not_finite_are_drawn_as_gaps(tmp_path):
    write_log(tmp_path / "some", [3.0, float("nan"), float("inf"), 2.0])
    write_log(tmp_path / "all", [float("nan")] * 3)
    assert len(compare_runs([tmp_path / "some", tmp_path / "all"], tmp_path)) == 3


def test_kept_files_of_one_directory_have_names_of_their_own(tmp_path):
    for parent in "ab":
        for seed in range(2):
            write_run(tmp_path / parent / "run", [["a"]], steps=2, seed=seed)
    files = [tmp_path / "a" / "run" / name for name in ("gap_choices.jsonl", "gap_choices.1.jsonl")]
    assert [run.name for run in read_runs(files)] == ["run", "run/gap_choices.1.jsonl"]
    both = [files[0], tmp_path / "b" / "run" / "gap_choices.jsonl"]
    assert [run.name for run in read_runs(both)] == ["a/run", "b/run"]


def test_command(runs, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "adamw" in result.stdout
    assert "0.7500" in result.stdout
    assert str(out / "gap_compare.html") in result.stdout


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not a Trainer's state"),
        ('{"log_history": 3}', "log_history is not a list"),
        ("[]", "not a Trainer's state"),
        (json.dumps({"global_step": 3}), "'log_history'"),
        ('{"log_history": [{"loss": 1.0, "step": 1e999}]}', "step inf is not a number of steps"),
        ('{"log_history": [{"loss": 1.0, "step": NaN}]}', "step nan is not a number of steps"),
        ('{"log_history": [{"loss": 1.0, "step": "3"}]}', "step '3' is not a number of steps"),
        ('{"log_history": [{"loss": 1' + "0" * 400 + ', "step": 3}]}', "int too large"),
        ('{"log_history": [], "global_step": -1}', "step -1 is not a number of steps"),
        ('{"log_history": ' + "[" * 100_000, "not a Trainer's state"),
        ('"log_history"', "not a Trainer's state"),
    ],
)
def test_damaged_state(tmp_path, content, says):
    (tmp_path / "trainer_state.json").write_text(content)
    check_failure(["compare", str(tmp_path), "--out", str(tmp_path / "out")], says)
    assert not (tmp_path / "out").exists()


def test_nothing_to_compare(tmp_path):
    check_failure(["compare", str(tmp_path)], "holds no run")
    check_failure(["compare", str(tmp_path / "x")], "there is no such directory")


def test_each_file_is_read_once(runs, tmp_path, monkeypatch):
    """Also where pictures, page and table are made of it, and where two names had to be told apart."""
    read = []
    monkeypatch.setattr(gap_hf.report.run, "read_choices", lambda path: read.append(path) or read_choices(path))
    for parent in "ab":
        write_run(tmp_path / parent / "run", [["a"]], steps=2)
    given = [tmp_path / "a" / "run", tmp_path / "b" / "run", *runs[:2]]
    result = CliRunner().invoke(app, ["compare", *map(str, given), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert read == [path / "gap_choices.jsonl" for path in given]
    assert "a/run" in result.stdout
    read.clear()
    assert CliRunner().invoke(app, ["plot", str(given[0])]).exit_code == 0
    assert len(read) == 1


def test_names_stay_when_runs_are_handed_on(tmp_path):
    for parent in "ab":
        write_log(tmp_path / parent / "x" / "run", [1.0])
    runs = read_runs([tmp_path / parent / "x" / "run" for parent in "ab"])
    assert [run.name for run in runs] == ["x/run"] * 2
    compare_runs(runs, tmp_path / "out", ["html"])
    assert [run.name for run in runs] == ["x/run"] * 2
