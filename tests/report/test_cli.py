"""``gap-hf plot``."""

import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gap_hf.cli import app

from ..tiny import run, tiny_trainer
from .runs import write_run


def test_installed_command_plots_a_real_run(tmp_path):
    tiny_trainer(tmp_path, max_steps=4).train()
    done = run([Path(sys.executable).parent / "gap-hf", "plot", tmp_path])
    assert done.returncode == 0, done.stderr
    *shares, first, second = done.stdout.splitlines()
    assert [first, second] == [str(tmp_path / "gap_share.png"), str(tmp_path / "gap_layers.png")]
    assert [line.split(":")[0] for line in shares] == ["beta1 = 0.8", "beta1 = 0.99"]
    assert sum(float(re.search(r"([\d.]+)% of all choices", line)[1]) for line in shares) == pytest.approx(100, abs=0.2)
    assert sorted(tmp_path.glob("*.png")) == [tmp_path / "gap_layers.png", tmp_path / "gap_share.png"]


def test_out(tmp_path):
    write_run(tmp_path / "run", [["a", "b"]], steps=3)
    result = CliRunner().invoke(
        app, ["plot", str(tmp_path / "run" / "gap_choices.jsonl"), "--out", str(tmp_path / "x")]
    )
    assert result.exit_code == 0
    expected = [str(tmp_path / "x" / "gap_share.png"), str(tmp_path / "x" / "gap_layers.png")]
    assert result.stdout.splitlines()[-2:] == expected
    assert not list((tmp_path / "run").glob("*.png"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "gap_choices.jsonl does not exist. A run with a gap optimizer"),
        ("", "holds no steps yet"),
        ("hello\nworld\n", "line 1: not a line of a choices file"),
        ('{"a": 1}\n', "line 1: not a line of a choices file (no header)"),
    ],
)
def test_what_cannot_be_plotted(tmp_path, content, says):
    if content is not None:
        (tmp_path / "gap_choices.jsonl").write_text(content)
    check_failure(["plot", str(tmp_path)], says)
    assert not list(tmp_path.glob("*.png"))


def test_missing_directory(tmp_path):
    check_failure(["plot", str(tmp_path / "nowhere")], "nowhere does not exist")


def test_run_without_a_step(tmp_path):
    write_run(tmp_path, [["a"]], steps=0)
    check_failure(["plot", str(tmp_path)], "holds no steps yet")


def test_output_that_cannot_be_written(tmp_path):
    write_run(tmp_path, [["a"]], steps=2)
    (tmp_path / "file").write_text("")
    check_failure(["plot", str(tmp_path), "--out", str(tmp_path / "file")], "file")


def check_failure(arguments: list[str], says: str) -> None:
    """Exit status 1, and one line that says what is wrong."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("gap-hf: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_arguments_show_help():
    result = CliRunner().invoke(app, [])
    assert "plot" in result.output
    assert result.exit_code == 2
