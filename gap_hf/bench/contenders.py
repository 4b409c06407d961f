"""The optimizers that are compared, by name."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..optim import GapAdamW
from ..optim.families import OPTIMIZERS
from ..optim.over.classes import find
from .before import optimizer
from .errors import BenchError, first_line
from .literal import LiteralGap
from .traffic import Traffic, one_pass, picked, scored, scored_with_gradient

BASELINE = "torch-fused"
"""The contender by whose step time every other is divided."""

NUMBERS: dict[str, Any] = {"lr": 1e-4, "weight_decay": 1e-2}
"""Options that are the same for all; they don't change what a step costs."""

TYPES = {"switch": "switch", "each": "switch_parameter_wise"}
"""The short names in contenders' names, and the ``type`` that each stands for."""

MIXES: dict[str, dict[str, Any]] = {
    "mix": {"type": "mix"},
    "mix-score": {"type": "mix", "weights": "score"},
    "mix-each": {"type": "mix_parameter_wise", "weights": "score"},
    "qhm": {"betas": None, "type": "mix"},
    "qhm-score": {"betas": None, "type": "mix", "weights": "score"},
    "qhm-each": {"betas": None, "type": "mix_parameter_wise", "weights": "score"},
}
"""The ends of the names of contenders that mix, with the fused kernel; those named qhm have the candidates of
``optim="gap_adamw_mix"`` (``betas=None`` means them), of which the first needs no buffer."""

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "rf-adamw": ("RFAdamW", {"batch_size": 16}),
    "rf-rmsprop": ("RFRMSprop", {"batch_size": 16}),
    "adai": ("Adai", {}),
    "adams": ("Adams", {}),
    "if-shampoo": ("IFShampoo", {"batch_size": 16, "max_axis": 1024}),
}
"""gap_hf's other optimizers by contenders' names: class and options. They have a single candidate."""

WHOLE = {
    "adamw": "torch",
    "lion": "pytorch_optimizer",
    "adabelief": "pytorch_optimizer",
    "ademamix": "pytorch_optimizer",
}
"""Optimizers that are GapOver's candidates, and the packages that they come from."""

GAP_FLAGS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "bf16": {"state_dtype": "bfloat16"},
    "8bit": {"state_dtype": "8bit"},
}
"""GAP's options by the ends of contenders' names: a kernel, or a smaller state with the default kernel."""


@dataclass(frozen=True)
class Contender:
    """An optimizer that the benchmark's table has a row for.

    Attributes:
        name: its name in the table.
        make: makes the optimizer from parameters and K.
        package: the package that must be installed.
        devices: the types of device that it runs on.
        compiled: whether ``torch.compile`` compiles its step, which then can't run while operations are counted.
        quadratic: whether its state grows with the square of an axis, so that nobody knows how much it is beforehand.
        traffic: what its step must move at least; None where that was not worked out.
    """

    name: str
    make: Callable[[list[Tensor], int], Optimizer]
    package: str = "torch"
    devices: tuple[str, ...] = ("cpu", "cuda")
    compiled: bool = False
    quadratic: bool = False
    traffic: Traffic | None = None

    def absence(self, device: torch.device) -> str | None:
        """Return the reason why the contender is not in the table, or None if it is."""
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


def contenders(before: Path | None = None) -> list[Contender]:
    """All contenders, in the table's order: torch's, the literal GAP, gap_hf's, whole optimizers, other packages'.

    ``before`` is a checkout of another version of gap_hf, whose optimizers come after this one's.

    Raises:
        BenchError: there is no such checkout.
    """
    return [*from_torch(), *gaps(), *(older(before) if before else []), *families(), *whole(), *peers()]


def from_torch() -> list[Contender]:
    """The three implementations of torch.optim.AdamW: fused, foreach and loop."""
    ways: dict[str, dict[str, Any]] = {
        BASELINE: {"fused": True},
        "torch-foreach": {"foreach": True},
        "torch-loop": {"foreach": False, "fused": False},
    }

    def maker(flags: dict[str, Any]) -> Callable[[list[Tensor], int], Optimizer]:
        return lambda params, K: torch.optim.AdamW(params, **NUMBERS, **flags)

    return [Contender(name, maker(flags), traffic=one_pass) for name, flags in ways.items()]


def gaps() -> list[Contender]:
    """The literal GAP and gap_hf's optimizers, each in both types, and the mixes."""

    def literal(type: str) -> Callable[[list[Tensor], int], Optimizer]:
        return lambda params, K: LiteralGap(params, betas=candidates(K), type=type, **NUMBERS)

    def ours(options: dict[str, Any]) -> Callable[[list[Tensor], int], Optimizer]:
        return lambda params, K: GapAdamW(params, **NUMBERS, **{"betas": candidates(K), **options})

    found = [Contender(f"literal-{short}", literal(type)) for short, type in TYPES.items()]
    for way, flags in GAP_FLAGS.items():
        for short, type in TYPES.items():
            traffic = picked if type == "switch" else one_pass
            found.append(Contender(f"gap-{way}-{short}", ours({"type": type, **flags}), traffic=traffic))
    for short, options in MIXES.items():
        traffic = {"mix-score": scored, "qhm-score": scored_with_gradient}.get(short, one_pass)
        found.append(Contender(f"gap-{short}", ours({**options, "fused": True}), traffic=traffic))
    return found


def older(checkout: Path) -> list[Contender]:
    """GapAdamW of another version, with this one's options."""
    cls = optimizer(checkout)

    def of(options: dict[str, Any]) -> Callable[[list[Tensor], int], Optimizer]:
        return lambda params, K: cls(params, **NUMBERS, **{"betas": candidates(K), **options})

    return [
        Contender(
            f"before-{way}-{short}", of({"type": type, **flags}), traffic=picked if type == "switch" else one_pass
        )
        for way, flags in GAP_FLAGS.items()
        for short, type in TYPES.items()
    ]


def families() -> list[Contender]:
    """gap_hf's optimizers of other families."""

    def maker(name: str, options: dict[str, Any]) -> Callable[[list[Tensor], int], Optimizer]:
        return lambda params, K: OPTIMIZERS[name](params, **NUMBERS, **options)

    return [Contender(name, maker(*told), quadratic="max_axis" in told[1]) for name, told in FAMILIES.items()]


def whole() -> list[Contender]:
    """Whole optimizers: each by itself, each as GapOver's only candidate, and all of them mixed or picked from."""

    def itself(name: str) -> Callable[[list[Tensor], int], Optimizer]:
        return lambda params, K: find(name)(params, **NUMBERS)

    def over(*names: str, **options: Any) -> Callable[[list[Tensor], int], Optimizer]:
        given = {"candidates": list(names), **NUMBERS, **options}
        return lambda params, K: OPTIMIZERS["GapOver"](params, **given)

    return [
        *(Contender(f"itself-{name}", itself(name), package) for name, package in WHOLE.items()),
        *(Contender(f"over-{name}", over(name), package) for name, package in WHOLE.items()),
        Contender("over-mixed", over(*WHOLE), "pytorch_optimizer"),
        Contender("over-picked", over(*WHOLE, type="switch_parameter_wise"), "pytorch_optimizer"),
    ]


def peers() -> list[Contender]:
    """Optimizers of other packages that also save memory or tuning."""

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


def select(only: list[str], before: Path | None = None) -> list[Contender]:
    """The baseline, and the contenders whose names begin with one of ``only``; all contenders if it is empty.

    Raises:
        BenchError: no contender has such a name, or ``before`` is no checkout.
    """
    everyone = contenders(before)
    for wanted in only:
        if not any(contender.name.startswith(wanted) for contender in everyone):
            names = ", ".join(contender.name for contender in everyone)
            raise BenchError(f"there is no contender {wanted!r}; there are {names}")
    wanted_names = (BASELINE, *only) if only else ("",)
    return [contender for contender in everyone if contender.name.startswith(wanted_names)]


def start(contender: Contender, params: list[Tensor], K: int) -> Optimizer | str:
    """Return the optimizer after its first step, in which most make their state, or why it can't be used."""
    try:
        optimizer = contender.make(params, K)
        optimizer.step()
    except Exception as error:  # whatever another package's code raises belongs in the table's foot
        return first_line(error)
    return optimizer
