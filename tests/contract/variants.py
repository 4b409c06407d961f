"""The variants that checks run on: each class, type and kernel of ours, and torch's own classes as the control."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

import gap_hf

from ..optim.twins import needs_fused

KERNELS = {
    "auto": {},
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"foreach": False, "fused": False},
}
TYPES = ("default", "switch", "switch_parameter_wise", "mix")
CHOOSE = ("switch", "switch_parameter_wise", "mix")
"""The types that take several candidates."""
CONTROL = "torch"
"""The name of torch's own classes' row; the others are named by their type."""

TORCHS = {gap_hf.Adam: torch.optim.Adam, gap_hf.GapAdamW: torch.optim.AdamW, gap_hf.SGDM: torch.optim.SGD}
ADAM_CANDIDATES: dict[str, Any] = {"betas": [(0.8, 0.999), (0.99, 0.999)]}
SGD_CANDIDATES: dict[str, Any] = {"momentum": [0.5, 0.9, 0.99]}


@dataclass(frozen=True, eq=False)  # each is itself: a key of caches
class Variant:
    """A class and the options it is built with.

    Attributes:
        name: what it is called in test ids.
        cls: the class.
        row: ``'torch'``, or the type.
        family: ``'adam'`` or ``'sgd'``.
        kernel: ``'fused'``, ``'foreach'``, ``'loop'``, or ``'auto'``: whichever the optimizer takes by itself.
        options: what its constructor is given, unless a check gives something else.
    """

    name: str
    cls: type[Optimizer]
    row: str
    family: str
    kernel: str
    options: dict[str, Any]

    def build(self, params: Any, **given: Any) -> Optimizer:
        return self.cls(params, **{**self.options, **given})

    @property
    def ours(self) -> bool:
        return self.row != CONTROL

    @property
    def several(self) -> bool:
        """Whether it has several candidates."""
        return self.row in CHOOSE

    def partner(self) -> "Variant | None":
        """Return the variant with the same results: torch's own for ``'default'``, our loop for our other kernels."""
        if self.row == "default":
            return by_name(f"{TORCHS[self.cls].__name__}-{CONTROL}-{self.kernel}")
        if self.several and self.kernel != "loop":
            return by_name(f"{self.cls.__name__}-{self.row}-loop")
        return None


def variants() -> list[Variant]:
    """Make all variants, the control first."""
    found = []
    for row in (CONTROL, *TYPES):
        for ours, torchs in TORCHS.items():
            cls, family = (torchs if row == CONTROL else ours), ("sgd" if ours is gap_hf.SGDM else "adam")
            options: dict[str, Any] = {} if row == CONTROL else {"type": row}
            if row in CHOOSE:
                options |= SGD_CANDIDATES if family == "sgd" else ADAM_CANDIDATES
            elif family == "sgd":
                options |= {"momentum": 0.9}
            if row == "mix" and family == "sgd":  # the others' weights are constant
                options["weights"] = "score"
            for kernel, flags in KERNELS.items():
                if row == "mix" and (kernel not in ("fused", "loop") or ours is gap_hf.Adam):  # no need of all
                    continue
                name = f"{cls.__name__}-{row}-{kernel}"
                found.append(Variant(name, cls, row, family, kernel, {**options, **flags}))
    return found


VARIANTS = variants()


def by_name(name: str) -> Variant:
    (found,) = [variant for variant in VARIANTS if variant.name == name]
    return found


def parameter(variant: Variant) -> Any:
    """Wrap ``variant`` for ``pytest.mark.parametrize``; our fused kernel needs a C compiler."""
    needs = variant.several and variant.kernel == "fused"
    return pytest.param(variant, id=variant.name, marks=needs_fused if needs else ())
