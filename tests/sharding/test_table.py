from gap_hf.optim.families import OPTIMIZERS

from . import layouts, zero
from .table import FAMILIES, PAGE, ROWS, family_table, refusal_table, table


def test_the_page_holds_the_table_of_what_is_tested():
    assert table() in PAGE.read_text(), "refresh it: python -m tests.sharding.table"


def test_the_page_holds_the_table_of_the_families(monkeypatch):
    monkeypatch.delenv("GAP_HF_TEST_ALL", raising=False)
    assert family_table() in PAGE.read_text(), "refresh it: python -m tests.sharding.table"
    assert set(FAMILIES.values()) == {optimizer.family.name for optimizer in OPTIMIZERS.values()}


def test_every_tested_layout_is_in_one_row():
    shown = [name for names, _ in ROWS.values() for name in names]
    assert sorted(shown) == sorted([*layouts.LAYOUTS, *zero.LAYOUTS])


def test_the_page_holds_the_table_of_what_is_refused():
    assert refusal_table() in PAGE.read_text(), "refresh it: python -m tests.sharding.table"
