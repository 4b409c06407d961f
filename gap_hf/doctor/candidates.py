"""The doctor's findings on the candidates of ``gap_over``: those that are known, and those that were asked for."""

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from ..optim.family import Grain
from ..optim.over import spec
from ..optim.over.methods import Method, read
from ..optim.over.profile import NEEDS, profile
from .finding import Finding, State


def known() -> list[Finding]:
    """List the published optimizers by package and by what they work on, as they were tried."""
    by_package = sorted(read(), key=lambda method: (method.package, method.version))
    return [
        finding
        for (package, version), methods in groupby(by_package, key=lambda method: (method.package, method.version))
        for finding in of_package(package, version, list(methods))
    ]


def of_package(package: str, tried: str, methods: list[Method]) -> Iterator[Finding]:
    """Say which version is installed, and what its optimizers work on."""
    try:
        version = importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        yield Finding(package, State.MISSING, f"not installed; tried with {tried}")
    else:
        same = version == tried
        more = "" if same else f" with {tried}; each candidate is looked at anew when it is built"
        yield Finding(f"{package} {version}", State.GOOD if same else State.NOTE, f"was tried{more}")
    for need in NEEDS.values():
        if names := written(method for method in methods if method.works_on == need):
            yield Finding("", State.NOTE, f"{need}: {names}")
    if names := written(method for method in methods if method.alone == "refused"):
        yield Finding("", State.NOTE, f"refused: {names}")


def written(methods: Iterable[Method]) -> str:
    """Return how methods are written as candidates, with commas."""
    texts = (method.candidate.partition("/") for method in methods)
    return ", ".join(sorted({path.rpartition(".")[2] + slash + options for path, slash, options in texts}))


def of_group(group: Mapping[str, Any], cut: bool) -> list[Finding]:
    """Say what each candidate of a group works on.

    Args:
        group: a parameter group of ``GapOver``.
        cut: whether parameters will be in pieces.
    """
    found = []
    for candidate in spec.read(group["candidates"]):
        about = profile(candidate)
        text = f"works on {NEEDS[about.grain]}; keeps {about.bytes:.3g} bytes for each element"
        refused = cut and about.grain > Grain.ELEMENT
        more = ". This launch cuts parameters into pieces" if refused else ""
        found.append(Finding(candidate.text, State.BAD if refused else State.GOOD, text + more))
    return found
