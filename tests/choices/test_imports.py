"""What each part of the room needs to be imported."""

import sys

import pytest

from ..tiny import run
from .files import write_three_steps

HEAVY = {"torch", "transformers"}
SCRIPT = """
import sys
run_dir = sys.argv[1]
sys.argv = ["gap-hf"]  # whose process does without what training needs
{}
print(*sys.modules)
"""
READ = """
from gap_hf.choices import read_choices
choices = read_choices(run_dir)
assert choices.steps.tolist() == [1, 2, 3]
"""
SUMMARISE = """
from gap_hf.report.run import read_runs
from gap_hf.report.summary import shares, summarise
(run,) = read_runs([run_dir])
assert summarise(run.choices)[0].parameters == 3
assert abs(sum(shares(run.choices).values()) - 1) < 1e-9
"""
PLOT = """
from gap_hf.report.write import compare_runs, plot_run
assert plot_run(run_dir)
assert compare_runs([run_dir, run_dir], run_dir + "/both")
"""
WRITE = """
from gap_hf.choices.writer import ChoiceWriter
"""
RECORD = """
from gap_hf.choices.recorder import Recorder
"""


@pytest.mark.parametrize(
    ("script", "takes"),
    [(READ, set()), (SUMMARISE, set()), (PLOT, set()), (WRITE, set()), (RECORD, {"torch"})],
    ids=["read", "summarise", "plot", "write", "record"],
)
def test_what_is_imported(tmp_path, script, takes):
    write_three_steps(tmp_path)
    done = run([sys.executable, "-c", SCRIPT.format(script), tmp_path])
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(done.stdout.split()) == takes


def test_the_former_place_of_the_reader():
    from gap_hf.choices import Choices, read_choices
    from gap_hf.trainer import record

    assert (record.Choices, record.read_choices) == (Choices, read_choices)
