r"""The reference of GapOver. Each candidate is an optimizer that lives as long as the run, on copies of the parameters.

Before each of its steps the copies are set to \(p' = (1 - \eta\lambda)\, p\), or to \(p\) if it decays by an option of
its own; afterwards they hold its proposal \(p_j\). With \(d_j = p' - p_j\):

\[
p \leftarrow \sum_j w_j\, p_j
\]

\[
J_j = \sum g\, d_j\ \text{(decrease)}, \qquad
J_j = \sum g\, d_{j,t-1}\ \text{(next)}, \qquad
J_j = \sqrt n \sum g\, d_j / \lVert d_j \rVert \ \text{(rms)}, \qquad
J_j = \sum g\, d_j / (\eta_j \rho_j \sigma^{e_j - \min e})\ \text{(gap)}
\]

The weights \(w\) are the rule's (``rules.py``). \(\sigma\) is the gradient's root mean square; a candidate's steps have
the size \(\rho_j\, \sigma^{e_j}\) at learning rate 1 for gradients without structure (``over/scores.py``).
"""

from ast import literal_eval
from collections.abc import Callable
from inspect import signature
from pydoc import locate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .common import Reference


class Built(NamedTuple):
    """A candidate.

    Attributes:
        lr_scale: its factor on the learning rate.
        decays: whether it has a weight decay of its own.
        copies: of the parameters, which its optimizer steps.
        optimizer: its optimizer.
        last: the steps that it proposed last.
    """

    lr_scale: float
    decays: bool
    copies: dict[Tensor, Tensor]
    optimizer: Any
    last: dict[Tensor, Tensor]


class ReferenceOver(Reference):
    """The reference of ``GapOver``.

    ``candidates`` is a text, in which the classes are given by their paths; ``score="gap"`` needs ``sizes``, a pair of
    size and exponent for each.
    """

    def __init__(
        self,
        params: Any,
        candidates: str,
        lr: float = 1e-3,
        weight_decay: float = 0,
        type: str = "switch_parameter_wise",
        score: str = "next",
        weights: Any = None,
        J_ema: float = 0.0,
        seed: int = 0,
        sizes: Any = (),
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "params", "__class__")}
        super().__init__(params, {**given, "hysteresis_threshold": 2**62, "lr_modulation": False})
        self.built = [self.build(text) for text in candidates.split(":")]

    def build(self, text: str) -> Built:
        """Build a candidate."""
        path, *rest = text.split("/")
        options = {name: literal_eval(value) for name, value in zip(rest[::2], rest[1::2], strict=True)}
        scale, decays = options.pop("lr_scale", 1.0), "weight_decay" in options
        cls: Any = locate(path)
        taken = signature(cls).parameters
        of_groups = {name: options.pop(name) for name in list(options) if name not in taken}
        if "weight_decay" in taken and not decays:
            options["weight_decay"] = 0.0
        copies = {p: p.detach().clone().requires_grad_() for group in self.param_groups for p in group["params"]}
        groups = [
            {"params": [copies[p] for p in group["params"]], "lr": group["lr"] * scale, **of_groups}
            for group in self.param_groups
        ]
        return Built(scale, decays, copies, cls(groups, **options), {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for built in self.built:
            for group, mine in zip(self.param_groups, built.optimizer.param_groups, strict=True):
                mine["lr"] = group["lr"] * built.lr_scale
                for p in group["params"]:
                    built.copies[p].data.copy_(start(group, built, p))
                    built.copies[p].grad = None if p.grad is None else p.grad.clone()
            built.optimizer.step()
        return super().step(closure)

    def decays(self, group: dict[str, Any]) -> list[float]:
        return [0.0] * len(self.built)

    def score(self, group: dict[str, Any], p: Tensor) -> list[float]:
        J: list[float] = []
        assert p.grad is not None
        for j, built in enumerate(self.built):
            d, g = start(group, built, p).double() - built.copies[p].detach().double(), p.grad.double()
            last = built.last.get(p, torch.zeros_like(d))
            built.last[p] = d.float().double()
            if group["score"] == "next":
                J.append(float((g * last).sum()))
            elif group["score"] == "rms":
                J.append(float((g * d).sum() / d.norm() * d.numel() ** 0.5) if d.norm() else 0.0)
            elif group["score"] == "gap":
                size, exponent = group["sizes"][j]
                sigma = float(g.square().mean().sqrt()) ** (exponent - min(e for _, e in group["sizes"]))
                unit = group["lr"] * built.lr_scale * size * sigma
                J.append(float((g * d).sum()) / unit if unit else 0.0)
            else:
                J.append(float((g * d).sum()))
        return J

    def apply(self, group: dict[str, Any], p: Tensor, weights: list[float]) -> None:
        proposals = [built.copies[p].detach() for built in self.built]
        if max(weights) == 1:
            p.copy_(proposals[weights.index(1)])
        else:
            p.copy_(torch.einsum("k,k...->...", torch.tensor(weights).double(), torch.stack(proposals).double()))

    def soft_reset(self, group: dict[str, Any], p: Tensor) -> None:
        """Leave everything as it is: what of a candidate's state are moments is not known."""


def start(group: dict[str, Any], built: Built, p: Tensor) -> Tensor:
    """The parameter after the group's weight decay, unless the candidate decays it."""
    return p.detach() if built.decays else p.detach() * (1 - group["lr"] * group["weight_decay"])
