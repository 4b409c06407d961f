"""``gap-hf sweep`` on a small real script."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gap_hf.cli import app
from gap_hf.report.run import read_run
from gap_hf.sweep import SweepError, plan
from gap_hf.sweep.contenders import Role
from gap_hf.trainer.presets import PRESETS

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


AGAIN = ["--gap-args", "betas=0.5:0.9", "--value", 0.5, "--value", 0.9]
"""Two candidates, which are the fixed values, too."""


def sweep(*options: object) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    result = CliRunner().invoke(app, ["sweep", str(SCRIPT), *map(str, options), *FLAGS], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def cells(output: str, name: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [name]]
    return line.split()


def test_grid_beside_gap_and_again(tmp_path):
    """The table has what the runs logged; a second call trains nothing anew; other flags are refused."""
    status, out, err = sweep(*AGAIN, "--out", tmp_path)
    assert status == 0, err
    names = ("gap_adamw", "random", "first", "beta1=0.5", "beta1=0.9")
    losses = {name: read_run(tmp_path / name).last("eval_loss") for name in names}
    assert len({losses[name] for name in ("random", "beta1=0.5", "beta1=0.9")}) == 3, "different optimizers"
    assert losses["first"] == pytest.approx(losses["beta1=0.5"], abs=1e-5), "the same candidate at every step"
    for name, loss in losses.items():
        assert f"{loss:.4f}" in cells(out, name)
    best = min(("beta1=0.5", "beta1=0.9"), key=losses.get)
    assert [line.split()[0] for line in out.splitlines() if "(best fixed" in line] == [best]
    assert f"{losses['gap_adamw'] - losses[best]:+.4f}" in cells(out, "gap_adamw")
    assert "One seed says nothing about noise: run at least three (--seed); here gap_adamw is " in out
    assert str(tmp_path / "gap_compare.html") in out
    assert (tmp_path / "gap_adamw" / "gap_choices.jsonl").is_file()

    written = (tmp_path / "gap_adamw" / "trainer_state.json").stat().st_mtime_ns
    status, again, err = sweep(*AGAIN, "--out", tmp_path)
    assert status == 0
    assert (tmp_path / "gap_adamw" / "trainer_state.json").stat().st_mtime_ns == written
    assert cells(again, "gap_adamw") == cells(out, "gap_adamw")

    status, _, err = sweep("--value", 0.5, "--out", tmp_path, "--seed", 1)
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


WITHOUT = """
import sys

absent = sys.argv.pop(1)

class Absent:
    def find_spec(self, name, path, target=None):
        if name == absent:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
sys.argv[0] = "gap-hf"
from gap_hf.cli import app
app()
"""


@pytest.mark.parametrize(
    ("absent", "command"), [("matplotlib", "sweep"), ("matplotlib", "compare"), ("scipy", "sweep")]
)
def test_without_what_tables_and_pictures_need(tmp_path, absent, command):
    """One line that can be followed however gap_hf was installed; the sweep says it before it trains."""
    done = run([sys.executable, "-c", WITHOUT, absent, command, SCRIPT if command == "sweep" else tmp_path])
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{absent} is not installed" in done.stderr
    assert "pip install matplotlib jinja2 scipy" in done.stderr
    assert done.stderr.count("\n") == 1


def test_values_that_are_nearly_equal_are_two(tmp_path):
    *_, one, other = plan(SCRIPT, [], values=[0.9, 0.9000001], out=tmp_path)
    assert (one.name, other.name) == ("beta1=0.9", "beta1=0.9000001")
    assert "type=default,betas=0.9000001" in other.command


def test_a_family_without_usual_values(monkeypatch):
    monkeypatch.setattr(type(PRESETS["adai"].optimizer.family), "grid", ())
    with pytest.raises(SweepError, match="'adai' has no candidates"):
        plan(SCRIPT, [], gap="adai")


def test_inertias_are_swept_like_momenta():
    """The smallest candidate is the one with the shortest memory: for Adai, that with the largest beta0."""
    members = plan(SCRIPT, [], gap="adai", gap_args="betas=0.05:0.2,type=switch")
    roles = {member.name: member.contender.role for member in members}
    assert roles["beta0=0.2"] is Role.SMALLEST
    assert roles["beta0=0.05"] is Role.FIXED


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"flags": ["--optim", "adamw_torch"]}, "--optim is set by the sweep"),
        ({"flags": ["--output-dir=x"]}, "--output-dir=x is set by the sweep"),
        ({"gap": "adamw_torch"}, "'adamw_torch' is not a gap optimizer; expected one of gap_adamw"),
        ({"script": Path("nowhere.py")}, "nowhere.py: there is no such script"),
        ({"launch": Path("nowhere.yaml")}, "nowhere.yaml: there is no such accelerate config"),
        ({"flags": ["--learning-rate=0.1"], "lrs": [0.1]}, "--learning-rate=0.1 contradicts --lr"),
        ({"lrs": [0.1, 0.0]}, "--lr 0: a learning rate is a number > 0"),
        ({"lrs": [float("nan")]}, "--lr nan: "),
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
    gap, *others = plan(SCRIPT, ["--max_steps", "3"], gap="gap_sgdm_baseline", out=tmp_path, launch=launch)
    fixed = [member for member in others if member.contender.fixed]
    assert [member.name for member in fixed] == [f"momentum={m:g}" for m in (0, 0.5, 0.8, 0.9, 0.99)]
    assert gap.command[1:5] == ["-m", "accelerate.commands.launch", "--config_file", str(launch)]
    assert "type=default,momentum=0.9" in fixed[3].command


def test_directories(tmp_path):
    """A single seed is not in their names, so that those of earlier sweeps are found."""

    def names(**given) -> list[str]:
        members = plan(SCRIPT, [], values=[0.8], out=tmp_path, controls=False, **given)
        return [member.directory.name for member in members]

    assert names() == ["gap_adamw", "beta1=0.8"]
    assert names(seeds=[1, 2, 1])[:2] == ["gap_adamw-seed1", "gap_adamw-seed2"]
    assert names(lrs=[1e-3]) == ["gap_adamw-lr0.001", "beta1=0.8-lr0.001"]
    assert names(lrs=[1e-5, 2e-3, 1e-5], seeds=[3, 4])[:4] == [
        "gap_adamw-lr1e-05-seed3", "gap_adamw-lr1e-05-seed4", "gap_adamw-lr0.002-seed3", "gap_adamw-lr0.002-seed4",
    ]  # fmt: skip


def test_every_contender_runs_at_every_learning_rate(tmp_path):
    members = plan(SCRIPT, ["--max_steps", "3"], out=tmp_path, lrs=[1e-3, 2e-3], seeds=[1, 2])
    assert len(members) == 4 * len({member.contender for member in members}) == 4 * 8
    for member in members:
        where = member.command.index("--learning_rate")
        assert float(member.command[where + 1]) == member.lr
    without = plan(SCRIPT, ["--learning_rate", "0.1"], out=tmp_path)
    assert all(member.command.count("--learning_rate") == 1 for member in without)


def test_a_random_choice_is_drawn_anew_for_each_seed(tmp_path):
    members = [member for member in plan(SCRIPT, [], seeds=[1, 2], out=tmp_path) if member.name == "random"]
    assert ["type=random_parameter_wise,seed=1" in member.command for member in members] == [True, False]
    assert ["type=random_parameter_wise,seed=2" in member.command for member in members] == [False, True]


def test_the_flags_of_the_command(tmp_path):
    """--lr and --no-controls are the sweep's; flags of the script that begin alike are not."""
    bad = ["--lr", "0.1", "--lr", "-1", "--no-controls", "--lr_scheduler_type", "constant"]
    result = CliRunner().invoke(app, ["sweep", str(SCRIPT), *bad, "--out", str(tmp_path)])
    assert (result.exit_code, result.stderr) == (1, "gap-hf: --lr -1: a learning rate is a number > 0\n")
    status, _, err = sweep("--lr", 0.1, "--out", tmp_path)
    assert status == 1
    assert "--learning_rate contradicts --lr" in err
