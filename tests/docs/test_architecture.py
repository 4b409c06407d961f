"""The picture shows the imports as they are."""

import html
import json
import re

from . import architecture


def test_the_picture_of_the_architecture_is_current():
    text = html.unescape(architecture.PICTURE.read_text(encoding="utf-8"))
    (shown,) = re.findall(r"<dc:description>(.*?)</dc:description>", text)
    assert json.loads(shown) == architecture.drawn(), "run python -m tests.docs.architecture"
