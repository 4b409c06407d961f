"""The pages say of each option what the code says."""

import re

import pytest

from gap_hf.optim.families import OPTIMIZERS

from ..tiny import ROOT
from . import options

OF_TRAINER = {"learning_rate": "lr"}


def test_the_table_is_current():
    page = options.PAGE.read_text(encoding="utf-8")
    assert options.table() in page, "run python -m tests.docs.options"
    assert options.current(page) == page


def test_the_page_on_resuming_has_every_option_in_its_row():
    page = (ROOT / "docs" / "howto" / "resume.md").read_text(encoding="utf-8")
    said = {}
    for row in re.findall(r"^\| ([^|]*`[^|]*) \| the (checkpoint|new run) \|", page, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", row[0]):
            said[OF_TRAINER.get(name, name)] = row[1]
    for optimizer in OPTIMIZERS.values():
        for name, (option, _) in optimizer.options.items():
            if name != "differentiable":
                assert said[name] == ("checkpoint" if option.resumed == "checkpoint" else "new run"), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_docstrings_list_every_option(optimizer):
    for name in optimizer.options:
        assert f"\n        {name}: " in optimizer.__doc__, name
