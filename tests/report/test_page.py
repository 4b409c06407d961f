"""The HTML page: all of it in one file, and its numbers right."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from gap_hf.choices import read_choices
from gap_hf.report.summary import shares, summarise
from gap_hf.report.verdict import verdict
from gap_hf.report.write import plot_run

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
    correlation = [0.1, 0.14, 0.3]
    write_log(tmp_path / "run", [3.0, 2.5, 2.25], {0: 3.1, 15: 2.2}, correlation=correlation, dominance=[0.5] * 3)
    page = Page(plot_run(tmp_path / "run")[-1])
    assert page.found["h1"] == ["GAP in run"]
    assert page.found["h2"] == [
        "Did choosing matter here?", "Loss", "Which candidate was applied", "Parameter by parameter",
        "How clearly it won", "By kind of parameter",
    ]  # fmt: skip
    assert len(page.pictures) == 5
    assert all(picture.startswith(b"<?xml") and b"</svg>" in picture for picture in page.pictures)
    assert not re.search(r"(src|href)=.?(https?:|//)|<script|@import|url\(", page.text), "nothing is fetched"
    facts = dict(zip(page.found["dt"], page.found["dd"], strict=True))
    assert facts == {
        "did choosing matter?": verdict(read_choices(tmp_path / "run")),
        "type": "switch_parameter_wise",
        "candidates (beta1)": "0.8, 0.99",
        "steps": "1 to 40",
        "parameters": "28",
        "training loss": "3 → 2.25",
        "evaluation loss": "3.1 → 2.2",
        "correlation of successive gradients": "0.14",
    }


def test_the_answer_is_given_once_on_the_page(tmp_path):
    """It is the first fact there, and so the picture does without; the picture's own file has it below."""
    write_run(tmp_path, [lora_names(2)], steps=400)
    page = Page(plot_run(tmp_path)[-1])
    said = verdict(read_choices(tmp_path))
    assert page.found["dd"][0] == said
    begin = said.partition(" % ")[0]
    assert page.text.count(begin) == 1
    assert begin not in page.pictures[0].decode()
    assert f"{begin}\N{NO-BREAK SPACE}%" in (tmp_path / "gap_dominance.svg").read_text()


def test_page_of_a_mix(tmp_path):
    write_run(tmp_path, [lora_names(2)], steps=150, type="mix_parameter_wise")
    page = Page(plot_run(tmp_path)[-1])
    assert page.found["h2"] == [
        "Did choosing matter here?", "How much of each candidate was applied", "Parameter by parameter",
        "By kind of parameter",
    ]  # fmt: skip
    assert page.found["th"] == ["parameters", "beta1 = 0.8", "beta1 = 0.99", "mean", "changed", "soft resets"]
    weights = read_choices(tmp_path).weights.mean(axis=(0, 1))
    assert page.found["td"][:4] == ["all parameters", "28", *(f"{weight:.1%}" for weight in weights)]
    assert float(page.found["td"][4]) == pytest.approx(weights @ [0.8, 0.99], abs=1e-4)
    assert "Of each candidate, its mean weight." in page.found["p"][0]
    assert "margin" not in page.found["p"][0]
    assert "had the largest weight" in page.found["figcaption"][0]
    assert page.found["dd"][0].startswith("The weights followed the scores")


@pytest.mark.parametrize("type", ["switch", "mix", "first", "random"])
def test_one_choice_for_all_has_no_count_of_parameters(tmp_path, type):
    write_run(tmp_path, [["a"], ["b"]], steps=2, type=type)
    page = Page(plot_run(tmp_path, formats=["html"])[-1])
    assert "parameters" not in page.found["dt"]
    assert page.found["td"][1].endswith("%"), "the first candidate's share"


def test_headings_are_not_repeated_in_the_pictures(tmp_path):
    """A picture's file has a title, since it travels alone; on the page the heading says it."""
    write_run(tmp_path, [lora_names(2)], steps=1300)
    write_log(tmp_path, [3.0, 2.5], {})
    pictures = [picture.decode() for picture in Page(plot_run(tmp_path)[-1]).pictures]
    titles = {
        "gap_dominance": "Did choosing matter here?",
        "gap_share": "Which candidate GAP applied",
        "gap_layers": "beta1 applied to each parameter",
        "gap_margins": "How clearly the applied candidate won",
    }
    for name, title in titles.items():
        assert f"<!-- {title} -->" in (tmp_path / f"{name}.svg").read_text()
        assert not any(title in picture for picture in pictures)
    assert not any("<!-- Loss -->" in picture for picture in pictures)
    assert any("each column: the most frequent choice of 3 steps" in picture for picture in pictures)


def test_ranges_are_named_by_their_percentage(tmp_path):
    write_run(tmp_path, [lora_names(2)], steps=40)
    plot_run(tmp_path, formats=["svg"])
    drawn = (tmp_path / "gap_margins.svg").read_text()
    assert re.findall(r"<!-- (m[a-z]+ ?[\d %]*) -->", drawn) == ["middle 90 %", "middle 50 %", "median"]


def test_the_page_follows_a_dark_theme(tmp_path):
    """Each colour is a variable that the dark theme sets anew; the pictures keep the white that they are drawn on."""
    write_run(tmp_path, [["a"]], steps=3)
    style = re.search(r"<style>(.*)</style>", Page(plot_run(tmp_path, formats=["html"])[-1]).text, re.DOTALL)[1]
    light, dark = (set(re.findall(r"--\w+", block)) for block in re.findall(r":root \{([^}]*)\}", style))
    assert "(prefers-color-scheme: dark)" in style
    assert light == dark == set(re.findall(r"var\((--\w+)\)", style))
    assert re.findall(r"#\w{3,8}\b", re.sub(r":root \{[^}]*\}", "", style)) == ["#fff"]


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


def test_lines_that_are_missing_are_told(tmp_path):
    write_run(tmp_path, [lora_names(1)], steps=5)
    path = tmp_path / "gap_choices.jsonl"
    path.write_text(path.read_text().replace('{"step":2,', '{"stop":2,').replace('{"step":4,', "{"))
    page = Page(plot_run(tmp_path, formats=["html"])[-1])
    facts = dict(zip(page.found["dt"], page.found["dd"], strict=True))
    assert facts["lines that can't be read"] == "2"


def test_runs_without_what_others_have(tmp_path):
    write_run(tmp_path / "switch", [["a"], ["b"]], steps=1, type="switch")
    page = Page(plot_run(tmp_path / "switch")[-1])
    assert page.found["h2"][-1] == "By kind of parameter"
    assert page.found["td"][0] == "all parameters"
    write_run(tmp_path / "old", [["a", "b"]], steps=5, margins=False)
    page = Page(plot_run(tmp_path / "old")[-1])
    assert len(page.pictures) == 3
    assert "median margin" not in page.found["th"]


def test_names_are_escaped(tmp_path):
    run = tmp_path / "<b>&run"
    write_run(run, [["<i>.weight", "b.weight"]], steps=2)
    assert Page(plot_run(run)[-1]).found["h1"] == ["GAP in <b>&run"]


def test_shares_of_all_choices(tmp_path):
    chosen = write_run(tmp_path, [lora_names(2)], steps=50)
    expected = {f"beta1 = {c}": pytest.approx((chosen == k).mean()) for k, c in enumerate(("0.8", "0.99"))}
    assert shares(read_choices(tmp_path)) == expected
