"""The picture of docs/algorithm.md about gains, from steps of the real optimizer: python -m tests.docs.gains"""

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

import gap_hf

from ..tiny import ROOT

PICTURE = ROOT / "docs" / "images" / "gains.svg"
MOMENTA = {0.0: "#440154", 0.5: "#31688e", 0.9: "#35b779", 0.99: "#b8a616"}
STEPS = 120


def steps(momentum: float, lr_modulation: bool | str) -> list[float]:
    """The sizes of the steps under a gradient that stays 1, at the learning rate 1."""
    p = torch.zeros(1, requires_grad=True)
    optimizer = gap_hf.SGDM([p], lr=1.0, momentum=[momentum], type="first", lr_modulation=lr_modulation)
    found = []
    for _ in range(STEPS):
        before, p.grad = p.item(), torch.ones(1)
        optimizer.step()
        found.append(before - p.item())
    return found


def draw() -> Figure:
    figure = Figure(figsize=(8, 3), layout="constrained")
    titles = {False: "the buffers as they are", "dc": "at equal gain (lr_modulation='dc')"}
    for axes, (lr_modulation, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        for momentum, color in MOMENTA.items():
            axes.plot(range(1, STEPS + 1), steps(momentum, lr_modulation), color=color, label=f"momentum {momentum:g}")
        axes.set(title=title, xlabel="step", yscale="log")
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("size of a step")
    figure.axes[0].legend(fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    with mpl.rc_context({"svg.hashsalt": "gap_hf"}):
        draw().savefig(PICTURE, format="svg", metadata={"Date": None})
    print(PICTURE)
