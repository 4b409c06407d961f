from . import layouts, zero
from .table import PAGE, ROWS, refusal_table, table


def test_the_page_holds_the_table_of_what_is_tested():
    assert table() in PAGE.read_text(), "refresh it: python -m tests.sharding.table"


def test_every_tested_layout_is_in_one_row():
    shown = [name for names, _ in ROWS.values() for name in names]
    assert sorted(shown) == sorted([*layouts.LAYOUTS, *zero.LAYOUTS])


def test_the_page_holds_the_table_of_what_is_refused():
    assert refusal_table() in PAGE.read_text(), "refresh it: python -m tests.sharding.table"
