"""The vector instructions that the fused CPU kernels are built with."""

import os
import platform
from pathlib import Path
from typing import NamedTuple


class Vectors(NamedTuple):
    """A set of vector instructions.

    Attributes:
        name: its usual name.
        needs: what the processor must have, as Linux calls it.
        flags: what tells the compiler and ``c/lanes.h``.
    """

    name: str
    needs: frozenset[str]
    flags: tuple[str, ...]


KINDS = {
    "avx512": Vectors("AVX-512", frozenset({"avx512f"}), ("-DLANES=16",)),
    "avx2": Vectors("AVX2", frozenset({"avx2", "fma", "f16c"}), ("-DLANES=8", "-mno-avx512f")),
    "plain": Vectors("plain C", frozenset(), ("-DLANES=4",)),
}
"""All of them by what ``GAP_HF_VECTORS`` calls them, the widest first."""


def chosen() -> Vectors:
    """Return the widest that the processor has, or those that ``$GAP_HF_VECTORS`` asks for.

    Raises:
        ValueError: ``GAP_HF_VECTORS`` is none of ``KINDS``, or the processor does not have them.
    """
    has = abilities()
    asked = os.environ.get("GAP_HF_VECTORS")
    if not asked:
        return next(kind for kind in KINDS.values() if kind.needs <= has)
    if asked not in KINDS:
        raise ValueError(f"GAP_HF_VECTORS={asked} is unknown; expected one of {', '.join(KINDS)}")
    if missing := KINDS[asked].needs - has:
        raise ValueError(f"GAP_HF_VECTORS={asked} needs a processor with {', '.join(sorted(missing))}; leave it out")
    return KINDS[asked]


def abilities() -> frozenset[str]:
    """Return what the processor can do, as Linux calls it; nothing if it is not an x86."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
