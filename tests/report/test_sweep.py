"""``gap-hf sweep`` on a small real script."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gap_hf.cli import app
from gap_hf.report.run import read_run, read_runs
from gap_hf.sweep import SweepError, plan, table

from ..tiny import ROOT, SCRIPTS, run

SCRIPT = SCRIPTS / "sweep_me.py"
FLAGS = [
    "--use_cpu",
    "true",
    "--max_steps",
    "6",
    "--logging_steps",
    "2",
    "--per_device_train_batch_size",
    "4",
    "--learning_rate",
    "0.02",
    "--report_to",
    "none",
    "--save_strategy",
    "no",
    "--disable_tqdm",
    "true",
]


def sweep(*options: object) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    result = CliRunner().invoke(app, ["sweep", str(SCRIPT), *map(str, options), *FLAGS], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def cells(output: str, name: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [name]]
    return line.split()


def test_grid_beside_gap_and_again(tmp_path):
    """The table has what the runs logged; a second call trains nothing anew; other flags are refused."""
    status, out, err = sweep("--value", 0.5, "--value", 0.9, "--out", tmp_path)
    assert status == 0, err
    losses = {name: read_run(tmp_path / name).last("eval_loss") for name in ("gap_adamw", "beta1=0.5", "beta1=0.9")}
    assert len(set(losses.values())) == 3, "three different optimizers"
    for name, loss in losses.items():
        assert f"{loss:.4f}" in cells(out, name)
    best = min(("beta1=0.5", "beta1=0.9"), key=losses.get)
    assert [line.split()[0] for line in out.splitlines() if "(best fixed)" in line] == [best]
    assert f"{losses['beta1=0.5'] - losses['gap_adamw']:+.4f}" in cells(out, "beta1=0.5")
    assert str(tmp_path / "gap_compare.html") in out
    assert (tmp_path / "gap_adamw" / "gap_choices.jsonl").is_file()

    written = (tmp_path / "gap_adamw" / "trainer_state.json").stat().st_mtime_ns
    status, again, err = sweep("--value", 0.5, "--value", 0.9, "--out", tmp_path)
    assert status == 0
    assert (tmp_path / "gap_adamw" / "trainer_state.json").stat().st_mtime_ns == written
    assert cells(again, "gap_adamw") == cells(out, "gap_adamw")

    status, _, err = sweep("--value", 0.5, "--out", tmp_path, "--seed", 1, "--gap-args", "betas=0.5:0.9")
    assert status == 1
    assert "is of a sweep with other flags" in err


def test_fixed_value_is_torchs_optimizer(tmp_path):
    """The run called beta1=0.9 has the losses of adamw_torch with that beta1."""
    (member,) = [m for m in plan(SCRIPT, FLAGS, values=[0.9], out=tmp_path) if m.name == "beta1=0.9"]
    torchs = [part if part != "gap_adamw" else "adamw_torch" for part in member.command]
    where = torchs.index("--optim_args")
    torchs[where : where + 2] = ["--adam_beta1", "0.9"]
    torchs[torchs.index("--output_dir") + 1] = str(tmp_path / "torch")
    for command in (member.command, torchs):
        assert run(command).returncode == 0
    assert read_run(member.directory).curve("loss") == read_run(tmp_path / "torch").curve("loss")


def test_failing_script(tmp_path):
    status, out, err = sweep("--value", 0.9, "--out", tmp_path, "--no_such_flag", "17")
    assert status == 1
    assert out == ""
    assert "gap_adamw failed with status 1" in err
    assert "--no_such_flag" in err
    assert not (tmp_path / "gap_adamw" / "sweep_done.json").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--value", 0.9, "--value", 1.5], "beta1=1.5: betas=[(1.5, 0.999)]"),
        (["--value", "nan"], "beta1=nan: "),
        (["--gap", "gap_sgdm", "--value", -0.5], "momentum=-0.5: momentum=[-0.5]"),
        (["--gap-args", "betas=0.8:1.5"], "gap_adamw: betas=[(0.8, 0.999), (1.5, 0.999)]"),
        (["--gap-args", "bettas=0.8"], "did you mean 'betas'?"),
    ],
)
def test_a_value_that_is_out_of_range_is_refused_before_anything_trains(tmp_path, options, says):
    status, out, err = sweep(*options, "--out", tmp_path / "out")
    assert (status, out) == (1, "")
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


WITHOUT_MATPLOTLIB = """
import sys

class Absent:
    def find_spec(self, name, path, target=None):
        if name == "matplotlib":
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
sys.argv[0] = "gap-hf"
from gap_hf.cli import app
app()
"""


@pytest.mark.parametrize("command", ["sweep", "compare"])
def test_without_matplotlib(tmp_path, command):
    """One line that can be followed however gap_hf was installed; the sweep says it before it trains."""
    done = run([sys.executable, "-c", WITHOUT_MATPLOTLIB, command, SCRIPT if command == "sweep" else tmp_path])
    assert (done.returncode, done.stdout) == (1, "")
    assert "matplotlib is not installed" in done.stderr
    assert "pip install matplotlib jinja2" in done.stderr
    assert done.stderr.count("\n") == 1


def test_values_that_are_nearly_equal_are_two(tmp_path):
    _, one, other = plan(SCRIPT, [], values=[0.9, 0.9000001], out=tmp_path)
    assert (one.name, other.name) == ("beta1=0.9", "beta1=0.9000001")
    assert "type=default,betas=0.9000001" in other.command


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"flags": ["--optim", "adamw_torch"]}, "--optim is set by the sweep"),
        ({"flags": ["--output-dir=x"]}, "--output-dir=x is set by the sweep"),
        ({"gap": "adamw_torch"}, "'adamw_torch' is not a gap optimizer; expected one of gap_adamw"),
        ({"script": Path("nowhere.py")}, "nowhere.py: there is no such script"),
        ({"launch": Path("nowhere.yaml")}, "nowhere.yaml: there is no such accelerate config"),
    ],
)
def test_bad_input(options, says):
    with pytest.raises(SweepError, match=says):
        plan(**{"script": SCRIPT, "flags": [], **options})


def test_a_run_of_somebody_else_is_not_overwritten(tmp_path):
    (tmp_path / "gap_adamw").mkdir()
    (tmp_path / "gap_adamw" / "trainer_state.json").write_text("mine")
    status, _, err = sweep("--value", 0.9, "--out", tmp_path)
    assert status == 1
    assert "holds a run that is not of a sweep" in err
    assert (tmp_path / "gap_adamw" / "trainer_state.json").read_text() == "mine"


def test_momenta_and_launchers(tmp_path):
    launch = ROOT / "recipes/configs/ddp_cpu.yaml"
    gap, *fixed = plan(SCRIPT, ["--max_steps", "3"], gap="gap_sgdm_baseline", out=tmp_path, launch=launch)
    assert [member.name for member in fixed] == [f"momentum={m:g}" for m in (0, 0.5, 0.8, 0.9, 0.99)]
    assert gap.command[1:5] == ["-m", "accelerate.commands.launch", "--config_file", str(launch)]
    assert "type=default,momentum=0.9" in fixed[3].command


def test_several_seeds(tmp_path):
    """Means and standard deviations over the seeds."""
    members = plan(SCRIPT, [], values=[0.9], seeds=[1, 2], out=tmp_path)
    assert [member.directory.name for member in members][:2] == ["gap_adamw-seed1", "gap_adamw-seed2"]
    for i, member in enumerate(members):
        member.directory.mkdir()
        log = [{"step": 1, "loss": float(i)}, {"step": 1, "eval_loss": 10.0 + i}]
        (member.directory / "trainer_state.json").write_text(json.dumps({"log_history": log}))
        (member.directory / "sweep_done.json").write_text(json.dumps({"command": member.command, "seconds": 2.0}))
    rows = table(members, read_runs([member.directory for member in members]))[1]
    assert rows[0][:3] == ["gap_adamw", "0.5000 ± 0.7071", "10.5000 ± 0.7071"]
    assert rows[1][:4] == ["beta1=0.9 (best fixed)", "2.5000 ± 0.7071", "12.5000 ± 0.7071", "+2.0000"]
