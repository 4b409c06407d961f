"""The table of methods says what is true of the installed versions."""

import pytest

from gap_hf.optim.over.methods import read
from gap_hf.optim.over.profile import NEEDS

from . import methods

ROWS = {row.method: row for row in read()}
SLOW = ("Muon", "AdaMuon", "AdaGO", "SOAP")  # some seconds each


def test_the_page_holds_the_table():
    assert methods.table(read()) in methods.PAGE.read_text(), "refresh it: python -m tests.over.methods"
    assert {row.method: row.candidate for row in ROWS.values()} == methods.METHODS
    assert {row.alone for row in ROWS.values()} == {row.beside_adamw for row in ROWS.values()} == {"exact", "refused"}


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m in SLOW)) for m in methods.METHODS])
def test_what_a_method_works_on(method):
    row, fits = ROWS[method], methods.fitting(methods.METHODS[method])
    if isinstance(fits, str):
        assert (row.alone, row.works_on) == ("refused", fits.split("\n")[0])
    else:
        assert (row.works_on, row.bytes) == (NEEDS[fits.grain], f"{fits.bytes:.3g}")
