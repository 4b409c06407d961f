"""One self-contained HTML page: pictures inside it, no scripts, nothing to fetch."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

DPI = 130


@dataclass
class Picture:
    """A figure and what to say below it."""

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


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file, the same bytes each time."""
    stream = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "gap_hf"}):
        figure.savefig(stream, format="svg", dpi=DPI, metadata={"Date": None})
    return stream.getvalue()


def render(title: str, facts: Sequence[tuple[str, str]], pictures: Sequence[Picture], tables: Sequence[Table]) -> str:
    """The page's HTML.

    Args:
        title: the heading.
        facts: (name, value) pairs at the top.
        pictures: in their order.
        tables: after the pictures.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    images = [(picture, base64.b64encode(svg(picture.figure)).decode()) for picture in pictures]
    return environment.get_template("page.html.jinja").render(title=title, facts=facts, images=images, tables=tables)
