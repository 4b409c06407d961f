"""The built documentation: it needs no network, and shows what it was written to show."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

build = pytest.importorskip("mkdocs.commands.build", reason="the docs extra is not installed: pip install '.[docs]'")
config = pytest.importorskip("mkdocs.config")

ROOT = Path(__file__).parents[2]
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """Tags by name, what the browser loads, and the text outside of code."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.terms: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open.append(tag)
        address = dict(attributes).get(LOADED.get(tag, ""))
        if address is not None:
            self.loaded.append(address)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass  # tags such as <img> are not closed

    def handle_data(self, data):
        if not {"code", "pre", "script", "style"} & set(self.open):
            self.text += data
        if "dt" in self.open:
            self.terms.append(data.strip())


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The built pages by name: ``index``, ``algorithm``, ``howto/plots``, ..."""
    site = tmp_path_factory.mktemp("site")
    build.build(config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(site), strict=True))
    paths = {path.relative_to(site).as_posix(): path for path in site.rglob("*.html")}
    return {name.removesuffix(".html").removesuffix("/index"): Page(path) for name, path in paths.items()}


def test_nothing_is_loaded_from_elsewhere(pages):
    addresses = {address for page in pages.values() for address in page.loaded}
    assert len(addresses) > 10, "the theme's own scripts and styles, the pictures"
    assert [address for address in addresses if address.startswith(("http:", "https:", "//"))] == []


def test_formulas_are_mathml(pages):
    families = {f"families/{name}" for name in ("adai", "if_shampoo", "root_free")}
    with_formulas = {"algorithm", "api", "evidence", *families, "howto/plots", "speed"}
    assert {name for name, page in pages.items() if "math" in page.tags} == with_formulas
    assert {name for name, page in pages.items() if "\\(" in page.text or "\\[" in page.text} == set()


def test_definitions_are_lists(pages):
    assert {"Parameter", "Candidate", "Gradient"} <= set(pages["algorithm"].terms)


def test_home_page_has_a_picture(pages):
    assert any(address.endswith("gap_share.png") for address in pages["index"].loaded)
