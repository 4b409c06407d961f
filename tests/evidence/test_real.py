"""The real studies: what is left to run, and a run itself, through the recipe."""

import os
import re
import sys
from math import isfinite
from pathlib import Path

import pytest
from evidence.real import REAL_STUDIES, Job, jobs, ways
from evidence.table import Row, add, read

from ..tiny import run

STUDY = "real_text"
ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join(map(str, (ROOT, ROOT / "recipes")))


def row(contender: str, seed: int, k: int, loss: float) -> Row:
    return Row(STUDY, contender, seed, 2.0**k, loss, loss, 9.0, False, [1.0], [1.0])


def test_what_there_is_is_not_run_again_and_the_grid_grows(tmp_path):
    lrs, contenders = REAL_STUDIES[STUDY].lrs, list(ways(REAL_STUDIES[STUDY]))
    every = [Job(STUDY, name, seed, k) for seed in (0, 1) for name in contenders for k in lrs]
    assert list(jobs([STUDY], [0, 1], tmp_path)) == every
    add(STUDY, [row(name, seed, k, abs(k - lrs[1])) for _, name, seed, k in every[1:]], tmp_path)
    assert list(jobs([STUDY], [0, 1], tmp_path)) == every[:1]
    add(STUDY, [row(contenders[0], 0, lrs[0], 0.5)], tmp_path)
    assert not list(jobs([STUDY], [0, 1], tmp_path)), "the best learning rates are inside"
    add(STUDY, [row("qhm", seed, lrs[-1], -1.0) for seed in (0, 1)], tmp_path)
    assert list(jobs([STUDY], [0, 1], tmp_path)) == [Job(STUDY, "qhm", seed, lrs[-1] + 1) for seed in (0, 1)]


# in a process of its own: one that has computed with threads can't be forked safely
RUN = """
from evidence.real import REAL_STUDIES, Job, prepare, run
from evidence.table import add

REAL_STUDIES["real_text"] = study = REAL_STUDIES["real_text"]._replace(
    flags="--max_length 8 --max_steps 2 --logging_steps 1 --eval_rows 16"
)
prepare(study)
add("real_text", [run(Job("real_text", "qhm", 0, -7))], Path(sys.argv[1]))
REAL_STUDIES["real_text"] = study._replace(flags="--no_such_flag 1")
run(Job("real_text", "qhm", 0, -7))
"""


@pytest.mark.timeout(200)
def test_a_run_is_the_recipes_and_what_it_says_against_its_flags_is_shown(tmp_path):
    done = run([sys.executable, "-c", f"import sys\nfrom pathlib import Path\n{RUN}", tmp_path], PYTHONPATH=PATH)
    assert done.returncode == 1
    assert re.search(r"classify_text.py .* failed:\s+Unknown on the command line: --no_such_flag", done.stderr)
    (found,) = read(STUDY, tmp_path).values()
    assert (found.contender, found.seed, found.lr) == ("qhm", 0, 2.0**-7)
    assert isfinite(found.loss)
    assert found.start != found.loss
    assert found.weights == pytest.approx([0.3, 0.7])
