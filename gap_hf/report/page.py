"""A self-contained HTML page: the pictures are inside it, and it loads nothing and runs no script."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

DPI = 130


@dataclass
class Picture:
    """A figure, the heading above it, and what to say below it."""

    title: str
    figure: Figure
    caption: str


@dataclass
class Table:
    """Rows of text under a heading; the first column names them."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass
class Findings:
    """What somebody who knows what the runs were made for adds to their comparison.

    Attributes:
        facts: (name, value) pairs for the top of the page.
        pictures: pictures by file name.
        tables: tables, which come first.
    """

    facts: Sequence[tuple[str, str]]
    pictures: Mapping[str, Picture]
    tables: Sequence[Table]


def svg(figure: Figure, titled: bool = True) -> bytes:
    """Return the figure as the text of an SVG file, the same each time.

    Args:
        figure: the figure to draw.
        titled: whether to draw its title; a page has headings instead.
    """
    stream = io.BytesIO()
    for axes in figure.axes:
        axes.title.set_visible(titled)
    with mpl.rc_context({"svg.hashsalt": "gap_hf"}):
        figure.savefig(stream, format="svg", dpi=DPI, metadata={"Date": None})
    for axes in figure.axes:
        axes.title.set_visible(True)
    return stream.getvalue()


def render(title: str, facts: Sequence[tuple[str, str]], pictures: Sequence[Picture], tables: Sequence[Table]) -> str:
    """Return the page's HTML.

    Args:
        title: the page's heading.
        facts: (name, value) pairs shown at the top.
        pictures: shown in this order.
        tables: shown after the pictures.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    images = [(picture, base64.b64encode(svg(picture.figure, titled=False)).decode()) for picture in pictures]
    return environment.get_template("page.html.jinja").render(title=title, facts=facts, images=images, tables=tables)
