"""MkDocs calls this hook to turn formulas into MathML, which browsers show without a script or a network."""

import html
import re
from typing import Any

from math_core import LatexToMathML

FORMULA = re.compile(r'(<(span|div) class="arithmatex">)\\[(\[](.*?)\\[)\]](</\2>)', re.DOTALL)
"""What pymdownx.arithmatex makes of a formula: a ``span`` for one in the text, a ``div`` for a displayed one."""

CONVERTER = LatexToMathML(fancy_error=False)


def on_page_content(content: str, **_: Any) -> str:
    """Convert a page's formulas. A command that the converter does not know is an error, which ends the build."""
    return FORMULA.sub(to_mathml, content)


def to_mathml(formula: re.Match[str]) -> str:
    """The element with MathML in the place of TeX."""
    start, element, tex, end = formula.groups()
    return start + CONVERTER.convert_with_local_state(html.unescape(tex), displaystyle=element == "div") + end
