"""The README names the versions that were tested, and no others."""

import re

import pytest

from .. import versions
from ..tiny import ROOT


@pytest.mark.parametrize("package", ["torch", "transformers", "DeepSpeed"])
def test_the_readme_says_what_passed(package):
    (row,) = re.findall(r"^\| tested \|.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    (newest, others) = re.findall(rf"{package} ([\d.]+) \(and ([\d., ]+):", row)[0]
    passed = [result.version for result in versions.read() if result.package == package.lower()]
    assert sorted([newest, *others.split(", ")]) == sorted(passed)
    pinned = re.findall(rf"^{package.lower()}==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert [newest] == pinned
