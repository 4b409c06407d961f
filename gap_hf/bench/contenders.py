"""The optimizers that are compared, by name."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..optim import GapAdamW
from .errors import BenchError, first_line
from .literal import LiteralGap

BASELINE = "torch-fused"
"""What every step time is divided by."""

NUMBERS: dict[str, Any] = {"lr": 1e-4, "weight_decay": 1e-2}
"""The same for all; they don't change what a step costs."""

TYPES = {"switch": "switch", "each": "switch_parameter_wise"}
"""What contenders are called by, and GAP's ``type``."""

GAP_FLAGS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "bf16": {"state_dtype": "bfloat16"},
    "8bit": {"state_dtype": "8bit"},
}
"""The kernels with state of the parameter's dtype, and smaller state with the kernel that is taken by default."""


@dataclass(frozen=True)
class Contender:
    """An optimizer of the table.

    Attributes:
        name: what it is called there.
        make: makes it, from parameters and K.
        package: what must be installed.
        devices: where it is run.
        compiled: whether it is one of ``torch.compile``, which can't be run while operations are counted.
    """

    name: str
    make: Callable[[list[Tensor], int], Optimizer]
    package: str = "torch"
    devices: tuple[str, ...] = ("cpu", "cuda")
    compiled: bool = False

    def absence(self, device: torch.device) -> str | None:
        """Why it is not in the table, or None."""
        if not installed(self.package):
            return f"{self.package} is not installed"
        if device.type not in self.devices:
            return f"not run on {device.type}, only on {' and '.join(self.devices)}"
        return None


def installed(package: str) -> bool:
    """Whether ``package`` can be imported."""
    return importlib.util.find_spec(package) is not None


def candidates(K: int) -> list[tuple[float, float]]:
    """K pairs of betas with 1 - beta1 from 0.2 to 0.01 in equal ratios; for one candidate, Adam's."""
    if K == 1:
        return [(0.9, 0.999)]
    return [(1 - 0.2 * 0.05 ** (j / (K - 1)), 0.999) for j in range(K)]


def contenders() -> list[Contender]:
    """All of them, in the table's order: torch's, the literal GAP, gap_hf's, and other packages'."""
    return [*from_torch(), *gaps(), *peers()]


def from_torch() -> list[Contender]:
    """torch.optim.AdamW in its three ways."""
    ways: dict[str, dict[str, Any]] = {
        BASELINE: {"fused": True},
        "torch-foreach": {"foreach": True},
        "torch-loop": {"foreach": False, "fused": False},
    }

    def maker(flags: dict[str, Any]) -> Callable[[list[Tensor], int], Optimizer]:
        return lambda params, K: torch.optim.AdamW(params, **NUMBERS, **flags)

    return [Contender(name, maker(flags)) for name, flags in ways.items()]


def gaps() -> list[Contender]:
    """The literal GAP and gap_hf's, in both types."""

    def literal(type: str) -> Callable[[list[Tensor], int], Optimizer]:
        return lambda params, K: LiteralGap(params, betas=candidates(K), type=type, **NUMBERS)

    def ours(type: str, flags: dict[str, Any]) -> Callable[[list[Tensor], int], Optimizer]:
        return lambda params, K: GapAdamW(params, betas=candidates(K), type=type, **NUMBERS, **flags)

    found = [Contender(f"literal-{short}", literal(type)) for short, type in TYPES.items()]
    for way, flags in GAP_FLAGS.items():
        package = "torchao" if way == "8bit" else "torch"
        found += [Contender(f"gap-{way}-{short}", ours(type, flags), package) for short, type in TYPES.items()]
    return found


def peers() -> list[Contender]:
    """Optimizers of other packages that save memory or tuning, too."""

    def of(module: str, name: str) -> Callable[[list[Tensor], int], Optimizer]:
        def make(params: list[Tensor], K: int) -> Optimizer:
            return getattr(importlib.import_module(module), name)(params, **NUMBERS)

        return make

    def schedulefree(params: list[Tensor], K: int) -> Optimizer:
        optimizer = of("schedulefree", "AdamWScheduleFree")(params, K)
        optimizer.train()  # type: ignore[attr-defined]  # its step refuses to run without
        return optimizer

    gpu = ("cuda",)  # on CPUs they run, but were not made to be fast there
    return [
        Contender("torchao-8bit", of("torchao.optim", "AdamW8bit"), "torchao", compiled=True),
        Contender("torchao-4bit", of("torchao.optim", "AdamW4bit"), "torchao", gpu, compiled=True),
        Contender("torchao-fp8", of("torchao.optim", "AdamWFp8"), "torchao", gpu, compiled=True),
        Contender("bnb-32bit", of("bitsandbytes.optim", "AdamW32bit"), "bitsandbytes", gpu),
        Contender("bnb-8bit", of("bitsandbytes.optim", "AdamW8bit"), "bitsandbytes", gpu),
        Contender("schedulefree", schedulefree, "schedulefree"),
    ]


def select(only: list[str]) -> list[Contender]:
    """The baseline, and the contenders whose names are or begin with one of ``only``; all if it is empty.

    Raises:
        BenchError: none is called so.
    """
    everyone = contenders()
    for wanted in only:
        if not any(contender.name.startswith(wanted) for contender in everyone):
            names = ", ".join(contender.name for contender in everyone)
            raise BenchError(f"there is no contender {wanted!r}; there are {names}")
    wanted_names = (BASELINE, *only) if only else ("",)
    return [contender for contender in everyone if contender.name.startswith(wanted_names)]


def start(contender: Contender, params: list[Tensor], K: int) -> Optimizer | str:
    """The optimizer after its first step, in which most make their state; or why it can't be used."""
    try:
        optimizer = contender.make(params, K)
        optimizer.step()
    except Exception as error:  # whatever another package's code raises belongs in the table's foot
        return first_line(error)
    return optimizer
