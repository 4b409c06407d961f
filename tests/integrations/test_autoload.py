"""``gap-hf autoload``: Python processes that nobody told of gap_hf know its names."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gap_hf.cli import app
from gap_hf.integrations import autoload


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A directory in the place of the environment's packages."""
    monkeypatch.setattr(autoload, "place", lambda: tmp_path / autoload.FILE)
    return tmp_path


def call(switch: str) -> str:
    result = CliRunner().invoke(app, ["autoload", switch])
    assert result.exit_code == 0, result.output
    return result.stdout


def python(packages, program: str) -> str:
    """What a Python prints that has these packages, too."""
    start = f"import site; site.addsitedir({str(packages)!r})"
    done = subprocess.run([sys.executable, "-c", f"{start}\n{program}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_on_and_off(packages):
    path = packages / autoload.FILE
    assert call("status") == f"off: there is no {path}\n"
    assert call("on") == f"on: {path}\n"
    assert path.read_text().count("\n") == 1
    assert call("status") == call("on") == f"on: {path}\n"
    assert call("off") == call("off") == f"off: there is no {path}\n"
    assert not path.exists()


def test_what_can_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(autoload, "place", lambda: tmp_path / "missing" / autoload.FILE)
    result = CliRunner().invoke(app, ["autoload", "on"])
    assert result.exit_code == 1
    assert "gap-hf: [Errno 2] No such file" in result.stderr


PARSED = """
import sys
from transformers import HfArgumentParser, TrainingArguments
assert "gap_hf" not in sys.modules
(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(["--output_dir", "x", "--optim", "gap_adamw"])
print(args.optim.value)
"""
BUILT = """
import sys
from transformers import Trainer, TrainingArguments
assert "gap_hf" not in sys.modules
print(TrainingArguments("x", optim="gap_adamw").optim.value)
print(Trainer.get_optimizer_cls_and_kwargs(TrainingArguments("x", optim="gap_sgdm"))[0].__name__)
"""
NOTHING = """
import sys
new = {"gap_hf", "torch", "transformers"} & set(sys.modules)
print(sorted(new), type(sys.meta_path[0]).__name__)
"""


@pytest.mark.parametrize(
    ("program", "printed"),
    [(PARSED, "gap_adamw\n"), (BUILT, "gap_adamw\nSGDM\n"), (NOTHING, "[] AfterImport\n")],
    ids=["by a parser", "by themselves", "a program without them"],
)
def test_the_names_are_there_when_arguments_are_used(packages, program, printed):
    call("on")
    assert python(packages, program) == printed


def test_an_uninstalled_package_leaves_nothing_behind(packages, monkeypatch):
    monkeypatch.setattr(autoload, "STARTUP", packages / "gone.py")
    call("on")
    assert python(packages, "import sys; print(type(sys.meta_path[0]).__name__)") != "AfterImport\n"
