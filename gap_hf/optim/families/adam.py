"""Adam and AdamW: K first moments share their second moments."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from ..family import Option, TorchsDefault
from ..kernels.adam_cpu import AdamOnCPU
from ..kernels.adam_cuda import AdamOnCUDA
from ..options import given, is_flag, number
from ..shell import GapOptimizer
from ..work import Work
from .common import Betas, distinct_beta2, kept_moments, parse_betas, rescaled
from .moments import OPTIONS, Moments


class AdamFamily(Moments, TorchsDefault):
    r"""The arithmetic of Adam and AdamW.

    For each gradient \(g\), candidate \(j\) and distinct \(\beta_2\) (``docs/algorithm.md``; arXiv 2512.06370):

    \[
    m_j \leftarrow m_j + (1-\beta_{1,j})(g - m_j), \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
    r = 1/(\sqrt{v/(1-\beta_2^t)} + \epsilon)
    \]
    \[
    J_j = \sqrt{1-\beta_{1,j}^2}\; W^{-1/2} \sum g\, r\, \frac{m_j}{1-\beta_{1,j}}, \qquad W = \mathrm{mean}(r), \qquad
    p \leftarrow p - \eta\, r\, \frac{m_j}{1-\beta_{1,j}^t}
    \]
    """

    # fmt: off
    name, candidate_name, candidate_option = "adam", "beta1", "betas"
    grid = (0.5, 0.8, 0.9, 0.95, 0.99)
    fused: ClassVar = {"cpu": AdamOnCPU, "cuda": AdamOnCUDA}
    examples: ClassVar = (
        {
            "betas": [(0.9, 0.99), (0.88, 0.99)], "lr": 0.1, "eps": 0.1, "weight_decay": 0.3, "lr_modulation": True,
            "decoupled_weight_decay": True, "soft_reset": 0.7, "second_order_momentum_reset_mode": "none",
            "maximize": False, "state_dtype": None, "type": "switch",
        },
        {  # the first has no buffer, and the last two tie; what lies beyond the end of a fragment would be 1 / 0
            "betas": [(0.0, 0.99), (0.9, 0.95), (0.9, 0.95)], "lr": 0.1, "eps": 0.0, "weight_decay": 0.2,
            "decoupled_weight_decay": False, "lr_modulation": True, "soft_reset": 0.7,
            "second_order_momentum_reset_mode": "square", "maximize": True, "state_dtype": None, "type": "switch",
        },
    )
    options: ClassVar = {
        **OPTIONS,
        "decoupled_weight_decay": Option(
            "decay as AdamW does instead of through the gradient.", is_flag, "True or False", resumed="run"
        ),
    }
    # fmt: on

    # ------------------------------------------------------------------ torch's states
    of_torch: ClassVar = {
        **{"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False},
        **{"foreach": None, "capturable": False, "differentiable": False, "fused": None},
        "decoupled_weight_decay": False,
    }
    shared_with_torch = ("lr", "eps", "weight_decay", "maximize")
    moments_of_torch = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def from_torch(
        self, group: Mapping[str, Any], saved: Mapping[str, Any], found: Mapping[str, Any]
    ) -> dict[str, Any]:
        if "max_exp_avg_sq" in found:
            raise ValueError("this state is of Adam with amsgrad=True, whose maximum has no counterpart in GAP")
        t, ((beta1, beta2),), pairs = int(found["step"]), parse_betas(tuple(saved["betas"])), self.parse(group)
        state = {"step": found["step"]}
        for j in self.kept(group):
            state[f"exp_avg_{j}"] = rescaled(found["exp_avg"], corrections(t, pairs[j][0], beta1))
        for u, other in enumerate(distinct_beta2(pairs)):
            state[f"exp_avg_sq_{u}"] = rescaled(found["exp_avg_sq"], corrections(t, other, beta2))
        return state

    def kept(self, options: Mapping[str, Any]) -> list[int]:
        return kept_moments(self, options)

    def memories(self, options: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
        pairs = self.parse(options)
        first = {f"exp_avg_{j}": ("exp_avg", pairs[j][0]) for j in self.kept(options)}
        return first | {f"exp_avg_sq_{u}": ("exp_avg_sq", beta2) for u, beta2 in enumerate(distinct_beta2(pairs))}

    def group_for_torch(self, group: Mapping[str, Any], chosen: int) -> dict[str, Any]:
        return {"betas": self.parse(group)[chosen], "decoupled_weight_decay": group["decoupled_weight_decay"]}

    def to_torch(self, group: Mapping[str, Any], found: Mapping[str, Any], mine: int, chosen: int) -> dict[str, Any]:
        t, pairs = int(found["step"]), self.parse(group)
        if f"exp_avg_{mine}" not in found:  # its moment is the gradient, of which nothing is kept
            mine = chosen
        (beta1, beta2), (of_torch1, of_torch2) = pairs[mine], pairs[chosen]
        first, second = found.get(f"exp_avg_{mine}"), found[f"exp_avg_sq_{distinct_beta2(pairs).index(beta2)}"]
        return {
            "step": torch.tensor(float(t), dtype=torch.float32, device="cpu"),
            # with a beta1 of 0 torch overwrites it
            "exp_avg": torch.zeros_like(second) if first is None else rescaled(first, corrections(t, of_torch1, beta1)),
            "exp_avg_sq": rescaled(second, corrections(t, of_torch2, beta2)),
        }

    # ------------------------------------------------------------------ a step
    def default_step(self, work: Work, group: Mapping[str, Any]) -> None:
        ((beta1, beta2),) = parse_betas(group["betas"])
        # torch's lists of tensors take a learning rate in a tensor only where a CUDA graph changes it
        lr = float(group["lr"]) if group["foreach"] and not group["capturable"] else number(group["lr"])
        function = adamw if group["decoupled_weight_decay"] else adam
        function(
            work.values,
            work.grads,
            work.buffers[0],
            work.buffers[1],
            [],
            work.steps,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=float(group["weight_decay"]),
            eps=float(group["eps"]),
            maximize=group["maximize"],
            foreach=group["foreach"],
            fused=group["fused"],
            capturable=group["capturable"],
        )


def corrections(t: int, beta: float, before: float) -> float:
    """The factor that turns a moving average with the rate ``before`` into the same estimate with ``beta``."""
    return 1.0 if beta == before or not t else (1 - beta**t) / (1 - before**t)


class Adam(GapOptimizer):
    r"""Adam that applies, at every step, the candidate \(\beta_1\) whose update is best aligned with the gradient.

    Per candidate \(j\), with one second moment per distinct \(\beta_2\) and
    \(r = 1/(\sqrt{\hat v} + \epsilon)\):

    \[
    J_j = \sqrt{1-\beta_{1,j}^2}\; W^{-1/2} \sum g\, r\, \frac{m_j}{1-\beta_{1,j}}, \qquad W = \mathrm{mean}(r)
    \]

    and the applied step is ``torch.optim.Adam``'s with the best candidate's moment
    (arXiv 2512.06370; ``docs/algorithm.md`` lists what the paper leaves open and how it is decided here).
    With ``type='default'`` it is exactly ``torch.optim.Adam`` or ``AdamW``.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    State per parameter: ``step`` (0-dim), ``exp_avg_0`` ... ``exp_avg_{K-1}`` and ``exp_avg_sq_0`` ... (one per
    distinct beta2), each of the parameter's shape and dtype. A candidate with beta1 = 0 has no ``exp_avg_j``, which
    would be the gradient itself.

    Raises:
        ValueError: an option is out of range, or ``differentiable``.
    """

    family = AdamFamily()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Betas | Sequence[Betas] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        type: str = "default",
        weights: Sequence[float] | str | None = None,
        lr_modulation: bool | str = False,
        soft_reset: float = 0.9,
        hysteresis_threshold: int = 10,
        second_order_momentum_reset_mode: str = "none",
        J_ema: float = 0.0,
        seed: int = 0,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        state_dtype: str | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, given(locals()))
