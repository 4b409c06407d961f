"""The doctor's findings on the fine-tuning frameworks that are installed: how each gets the gap optimizers."""

import importlib.metadata
from typing import NamedTuple

from ..integrations import autoload
from .finding import Finding, State


class Host(NamedTuple):
    """A framework.

    Attributes:
        package: its name for pip.
        tried: the version that ``python -m tests.hosts`` runs.
        how: what its user does.
        by_itself: whether that works without ``gap-hf autoload on``.
        refused: what does not work with it, and why.
    """

    package: str
    tried: str
    how: str
    by_itself: bool = True
    refused: str = ""


HOSTS = (
    Host("trl", "1.16.0", "trl sft --optim gap_adamw", by_itself=False),
    Host(
        "axolotl",
        "0.19.0",
        "in its YAML plugins: [gap_hf.integrations.axolotl.GapPlugin] and optimizer: gap_adamw",
        refused="relora resets AdamW's state by name, which would leave GAP's as it is",
    ),
    Host(
        "llamafactory",
        "0.9.5",
        "in its YAML optim: gap_adamw, or with USE_V1=1 optim_config: {name: gap_adamw}",
        by_itself=False,
        refused="use_galore, use_apollo, use_badam, use_adam_mini and use_muon bring optimizers of their own",
    ),
    Host(
        "ms-swift",
        "4.6.0",
        "--external_plugins with a file that imports gap_hf.integrations.swift, and --optimizer gap_adamw",
        refused="--use_galore is an optimizer of its own",
    ),
    Host(
        "lightning",
        "2.6.6",
        "gap_hf.GapAdamW in configure_optimizers; gap_hf.integrations.lightning.GapCallback logs the choices",
        refused="its DeepSpeedStrategy has not been tried: it needs CUDA",
    ),
)


def hosts() -> list[Finding]:
    """Say how each framework that is installed gets the gap optimizers, and what is refused in it."""
    found = []
    for host in HOSTS:
        try:
            version = importlib.metadata.version(host.package)
        except importlib.metadata.PackageNotFoundError:
            continue
        name, state, how = f"{host.package} {version}", State.GOOD, host.how
        if not host.by_itself and not autoload.is_on():
            state, how = State.NOTE, f"gap-hf autoload on, once; then {how}"
        if version != host.tried:
            state, how = State.NOTE, f"{how} (tried with {host.tried})"
        found.append(Finding(name, state, how))
        if host.refused:
            found.append(Finding("", State.NOTE, host.refused))
    if found:
        text = "on: every Python here knows the names" if autoload.is_on() else "off"
        found.append(Finding("gap-hf autoload", State.NOTE, text))
    return found
