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
    done = subprocess.run([sys.executable, "-c", f"{start}\n{program}"], capture_output=True, text=True, timeout=300)
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


FIRST = ["training_args", "trainer", "trainer_callback", "trainer_seq2seq", "trainer_pt_utils", "hf_argparser"]
PARSED = """
import sys
from transformers.{first} import *
from transformers import TrainingArguments
assert "gap_hf" in sys.modules
from trl import SFTConfig, TrlParser
(args,) = TrlParser([SFTConfig]).parse_args_and_config(["--output_dir", "x", "--optim", "gap_adamw", "--bf16", "false"])
print(args.optim.value)
from transformers import HfArgumentParser, Trainer
(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(["--output_dir", "x", "--optim", "gap_sgdm"])
print(Trainer.get_optimizer_cls_and_kwargs(args)[0].__name__)
"""


@pytest.mark.parametrize(
    "first", [pytest.param(name, marks=() if name == "trainer_callback" else pytest.mark.slow) for name in FIRST]
)
def test_the_names_are_there_for_every_parser(packages, first):
    """Whatever is imported first: gap_hf must not be imported while a module that it needs is half imported."""
    call("on")
    assert python(packages, PARSED.format(first=first)) == "gap_adamw\nSGDM\n"


def test_other_programs_import_nothing(packages):
    call("on")
    program = 'import sys; print(sorted({"gap_hf", "torch", "transformers"} & {*sys.modules}), sys.meta_path[0])'
    assert python(packages, program).startswith("[] <gap_hf_startup.AfterTrainingArguments")


def test_twice_is_once(packages):
    """Where two paths lead to the same packages."""
    call("on")
    again = f"import site, sys; site.addsitedir({str(packages / '..' / packages.name)!r})"
    program = f"{again}; import transformers.utils; print(sum('gap_hf' in str(finder) for finder in sys.meta_path))"
    assert python(packages, program) == "1\n"


def test_a_failure_is_told_and_ends_nothing(packages):
    call("on")
    broken = "import sys; sys.modules['gap_hf'] = None; from transformers import TrainingArguments; print('on')"
    done = subprocess.run(
        [sys.executable, "-c", f"import site; site.addsitedir({str(packages)!r}); {broken}"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "on\n"
    assert "gap-hf autoload: gap_hf can't be imported: ModuleNotFoundError" in done.stderr


def test_an_uninstalled_package_leaves_nothing_behind(packages, monkeypatch):
    monkeypatch.setattr(autoload, "STARTUP", packages / "gone.py")
    call("on")
    assert "gap_hf" not in python(packages, "import sys; print(sys.meta_path[0])")
