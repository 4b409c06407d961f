"""The HTML page: all of it in one file, and its numbers right."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from gap_hf.report.summary import shares, summarise
from gap_hf.report.write import plot_run
from gap_hf.trainer.record import read_choices

from .runs import lora_names, write_log, write_run


class Page(HTMLParser):
    """Headings, cells, pictures; and whether every tag that opens is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.found: dict[str, list[str]] = {}
        self.pictures: list[bytes] = []
        self.feed(self.text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag in ("meta", "img"):
            source = dict(attributes).get("src")
            if source:
                kind, _, data = source.partition(",")
                assert kind == "data:image/svg+xml;base64"
                self.pictures.append(base64.b64decode(data, validate=True))
                assert dict(attributes)["alt"]
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.found.setdefault(self.open[-1], []).append(data.strip())


def test_everything_is_in_the_page(tmp_path):
    write_run(tmp_path / "run", [lora_names(2)], steps=40, reset_every=10)
    write_log(tmp_path / "run", [3.0, 2.5, 2.25], {0: 3.1, 15: 2.2})
    page = Page(plot_run(tmp_path / "run")[-1])
    assert page.found["h1"] == ["GAP in run"]
    assert page.found["h2"] == [
        "Loss", "Which candidate was applied", "Parameter by parameter", "How clearly it won", "By kind of parameter",
    ]  # fmt: skip
    assert len(page.pictures) == 4
    assert all(picture.startswith(b"<?xml") and b"</svg>" in picture for picture in page.pictures)
    assert not re.search(r"(src|href)=.?(https?:|//)|<script|@import|url\(", page.text), "nothing is fetched"
    facts = dict(zip(page.found["dt"], page.found["dd"], strict=True))
    assert facts == {
        "type": "switch_parameter_wise",
        "candidates (beta1)": "0.8, 0.99",
        "steps": "1 to 40",
        "parameters": "28",
        "training loss": "3 → 2.25",
        "evaluation loss": "3.1 → 2.2",
    }


def test_table_by_kind(tmp_path):
    chosen = write_run(tmp_path, [lora_names(3)], steps=50, reset_every=7)
    choices = read_choices(tmp_path)
    rows = {row.name: row for row in summarise(choices)}
    assert len(rows) == 15, "all, and 14 matrices of a layer"
    assert sum(row.parameters for row in rows.values()) == 2 * 42
    mine = [i for i, name in enumerate(lora_names(3)) if "v_proj.lora_B" in name]
    row = rows["self_attn.v_proj.lora_B"]
    assert row.parameters == 3
    assert row.shares == pytest.approx([(chosen[:, mine] == k).mean() for k in range(2)])
    assert row.mean == pytest.approx(np.where(chosen[:, mine] == 0, 0.8, 0.99).mean())
    assert row.changed == pytest.approx((chosen[1:, mine] != chosen[:-1, mine]).mean())
    assert row.margin == pytest.approx(np.median(choices.margins[:, mine]))
    assert sum(row.resets for row in rows.values()) == 2 * len(choices.resets)
    page = Page(plot_run(tmp_path)[-1])
    cells = page.found["td"]
    assert cells[:4] == ["all parameters", "42", *(f"{(chosen == k).mean():.1%}" for k in range(2))]
    assert cells.count("self_attn.v_proj.lora_B") == 1


def test_runs_without_what_others_have(tmp_path):
    write_run(tmp_path / "switch", [["a"], ["b"]], steps=1, type="switch")
    page = Page(plot_run(tmp_path / "switch")[-1])
    assert page.found["h2"][-1] == "By kind of parameter"
    assert page.found["td"][0] == "all parameters"
    write_run(tmp_path / "old", [["a", "b"]], steps=5, margins=False)
    assert len(Page(plot_run(tmp_path / "old")[-1]).pictures) == 2


def test_names_are_escaped(tmp_path):
    run = tmp_path / "<b>&run"
    write_run(run, [["<i>.weight", "b.weight"]], steps=2)
    assert Page(plot_run(run)[-1]).found["h1"] == ["GAP in <b>&run"]


def test_shares_of_all_choices(tmp_path):
    chosen = write_run(tmp_path, [lora_names(2)], steps=50)
    expected = {f"beta1 = {c}": pytest.approx((chosen == k).mean()) for k, c in enumerate(("0.8", "0.99"))}
    assert shares(read_choices(tmp_path)) == expected
