"""``gap-hf`` itself, ``gap-hf plot``, and where ``gap-hf compare`` writes."""

import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gap_hf
from gap_hf.cli import app

from ..tiny import run, tiny_trainer
from .runs import write_log, write_run

COMMAND = Path(sys.executable).parent / "gap-hf"


def test_installed_command_plots_a_real_run(tmp_path):
    tiny_trainer(tmp_path, max_steps=4).train()
    done = run([COMMAND, "plot", tmp_path])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    shares, said, written = lines[:2], lines[2], lines[3:]
    assert said.startswith("This run is too short to tell: 4 steps")
    assert written[0] == str(tmp_path / "gap_dominance.png")
    assert written[-1] == str(tmp_path / "gap_report.html")
    assert all(Path(path).stat().st_size > 1000 for path in written)
    assert [line.split(":")[0] for line in shares] == ["beta1 = 0.8", "beta1 = 0.99"]
    assert sum(float(re.search(r"([\d.]+)% of all choices", line)[1]) for line in shares) == pytest.approx(100, abs=0.2)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"gap_{name}.png" for name in ("dominance", "layers", "margins", "share")
    }


def test_weights_of_a_mix(tmp_path):
    write_run(tmp_path, [["a", "b"]], steps=30, type="mix", candidates=("0", "0.9"), weights=(0.3, 0.7))
    lines = CliRunner().invoke(app, ["plot", str(tmp_path), "--format", "png"]).stdout.splitlines()
    assert lines[:2] == ["beta1 = 0: 30.0% of the weight", "beta1 = 0.9: 70.0% of the weight"]
    assert lines[2].startswith("The weights are constant")
    assert [Path(line).name for line in lines[3:]] == ["gap_dominance.png", "gap_share.png", "gap_layers.png"]


def test_out(tmp_path):
    write_run(tmp_path / "run", [["a", "b"]], steps=3)
    result = CliRunner().invoke(
        app, ["plot", str(tmp_path / "run" / "gap_choices.jsonl"), "--out", str(tmp_path / "x")]
    )
    assert result.exit_code == 0
    written = result.stdout.splitlines()[3:]
    assert len(written) == 9
    assert all(Path(path).parent == tmp_path / "x" for path in written)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["gap_choices.jsonl"]


def test_format(tmp_path):
    write_run(tmp_path, [["a", "b"]], steps=3)
    result = CliRunner().invoke(app, ["plot", str(tmp_path), "--format", "svg", "--format", "html"])
    assert {Path(path).suffix for path in result.stdout.splitlines()[3:]} == {".svg", ".html"}
    check_failure(["plot", str(tmp_path), "--format", "pdf"], "'pdf' is not a format; expected one of png, svg, html")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "holds no run: neither gap_choices.jsonl (written with a gap optimizer) nor trainer_state.json"),
        ("", "holds no steps yet"),
        ("hello\nworld\n", "is not a choices file (line 1: not JSON"),
        ('{"a": 1}\n', "is not a choices file (line 1: no header)"),
    ],
)
def test_what_cannot_be_plotted(tmp_path, content, says):
    if content is not None:
        (tmp_path / "gap_choices.jsonl").write_text(content)
    check_failure(["plot", str(tmp_path)], says)
    assert not list(tmp_path.glob("*.png"))


def test_damaged_line_is_told_once(tmp_path, caplog):
    write_run(tmp_path, [["a", "b"]], steps=4)
    path = tmp_path / "gap_choices.jsonl"
    path.write_text(path.read_text().replace('{"step":2,', "{"))
    for command in (["plot"], ["compare", "--out", str(tmp_path / "out")]):
        caplog.clear()
        result = CliRunner().invoke(app, [*command, str(tmp_path)])
        assert result.exit_code == 0, result.stderr
        (record,) = caplog.records
        assert record.getMessage() == f"{path}: lines that can't be read are left out (line 3: it has no 'step')"


def test_missing_directory(tmp_path):
    check_failure(["plot", str(tmp_path / "nowhere")], "nowhere: there is no such directory")
    check_failure(["plot", str(tmp_path / "nowhere" / "gap_choices.jsonl")], "there is no such directory")


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


def test_help_imports_neither_torch_nor_transformers():
    """They take seconds, and the help needs nothing of them."""
    done = run([sys.executable, "-X", "importtime", COMMAND, "--help"])
    assert done.returncode == 0, done.stderr
    assert "sweep" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "gap_hf.cli" in imported
    assert not imported & {"torch", "transformers", "numpy", "matplotlib"}


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"gap-hf {gap_hf.__version__}\n")


def test_compare_writes_only_where_it_is_told_to(tmp_path, monkeypatch):
    write_log(tmp_path / "run", [2.0, 1.0])
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["compare", "run"])
    assert result.exit_code == 0, result.stderr
    assert "1.5000" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    check_failure(["compare", "run", "--format", "png"], "--format says what goes into --out; give that, too")
