"""GAP for Adam and AdamW: K first moments share their second moments."""

import math
from collections.abc import Sequence
from typing import Any

from torch.optim.adam import adam
from torch.optim.adamw import adamw

from ..candidate import Candidate
from ..sharding.layout import Part
from .base import GapOptimizer, modulation, number
from .kernels import Rule
from .options import check_flags, check_option, is_number

Betas = tuple[float, float]
DEFAULT_CANDIDATES: tuple[Betas, ...] = ((0.8, 0.999), (0.99, 0.999))
"""Those of ``GapAdamW`` and of ``optim="gap_adamw"``."""

RESET_MODES = ("none", "same", "square")


class Adam(GapOptimizer):
    r"""Adam that applies, at every step, the candidate \(\beta_1\) whose update is best aligned with the gradient.

    Per candidate \(j\), with one second moment per distinct \(\beta_2\) and
    \(r = 1/(\sqrt{\hat v} + \epsilon)\):

    \[
    J_j = \sqrt{1-\beta_{1,j}^2}\; W^{-1/2} \sum g\, r\, \frac{m_j}{1-\beta_{1,j}}, \qquad W = \mathrm{mean}(r)
    \]

    and the applied step is ``torch.optim.Adam``'s with the best candidate's moment
    (arXiv 2512.06370; ``docs/algorithm.md`` lists what the paper leaves open and how it is decided here).

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        lr: learning rate.
        betas: one ``(beta1, beta2)``, or a list of K of them: the candidates.
        eps: added to the denominator.
        weight_decay: decay coefficient.
        decoupled_weight_decay: decay as AdamW does instead of through the gradient.
        type: ``'default'`` (one candidate, exactly ``torch.optim.Adam``/``AdamW``), ``'switch'`` (one choice for the
            whole model) or ``'switch_parameter_wise'`` (one per parameter).
        lr_modulation: scale each candidate's step to the power of the first-listed one's.
        soft_reset: factor on the first moments after ``hysteresis_threshold`` steps in a row against the gradient.
        hysteresis_threshold: that number of steps.
        second_order_momentum_reset_mode: a soft reset leaves the second moments (``'none'``), scales them alike
            (``'same'``) or by the square (``'square'``).
        J_ema: in [0, 1), moving average of the scores (``'switch'`` only).
        foreach: use torch's multi-tensor operations (``docs/speed.md``); None leaves it open.
        fused: use the fused kernel; None takes it where there is one.
        capturable: let CUDA graphs capture the step.
        state_dtype: of the moments, ``'float32'``, ``'bfloat16'`` or ``'8bit'``; None takes the parameter's.
        maximize: step along the gradient instead of against it.
        differentiable: must be False; in the list because ``torch.optim`` has it.

    State per parameter: ``step`` (0-dim), ``exp_avg_0`` ... ``exp_avg_{K-1}`` and ``exp_avg_sq_0`` ... (one per
    distinct beta2), each of the parameter's shape and dtype.

    Raises:
        ValueError: an option is out of range, or ``differentiable``.
    """

    candidate_name, candidate_option = "beta1", "betas"

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Betas | Sequence[Betas] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        type: str = "default",
        lr_modulation: bool = False,
        soft_reset: float = 0.9,
        hysteresis_threshold: int = 10,
        second_order_momentum_reset_mode: str = "none",
        J_ema: float = 0.0,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        state_dtype: str | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "type": type,
            "lr_modulation": lr_modulation,
            "soft_reset": soft_reset,
            "hysteresis_threshold": hysteresis_threshold,
            "second_order_momentum_reset_mode": second_order_momentum_reset_mode,
            "J_ema": J_ema,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "state_dtype": state_dtype,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def candidates(self, group: dict[str, Any]) -> list[Betas]:
        """The K pairs ``(beta1, beta2)`` of ``group``. Raises ValueError where ``betas`` is not one pair or a list."""
        return parse_betas(group["betas"])

    def candidate_list(self, group: dict[str, Any]) -> list[Candidate]:
        """The K candidates; their value is ``beta1``, and labels add ``/beta2`` where the candidates differ in it."""
        pairs = self.candidates(group)
        shared = len({b2 for _, b2 in pairs}) == 1
        return [Candidate(f"{b1:g}" if shared else f"{b1:g}/{b2:g}", b1, "adam") for b1, b2 in pairs]

    def _validate(self, group: dict[str, Any]) -> None:
        eps = group["eps"]
        check_option("eps", eps, is_number(eps) and eps >= 0, "a number >= 0")
        check_flags(group, ["decoupled_weight_decay"])
        mode = group["second_order_momentum_reset_mode"]
        check_option("second_order_momentum_reset_mode", mode, mode in RESET_MODES, f"one of {', '.join(RESET_MODES)}")

    def buffers(self, group: dict[str, Any]) -> tuple[list[str], list[str]]:
        pairs = self.candidates(group)
        first = [f"exp_avg_{j}" for j in range(len(pairs))]
        return first, [f"exp_avg_sq_{u}" for u in range(len(distinct_beta2(pairs)))]

    def _torch_step(self, part: Part) -> None:
        group = part.group
        states = [self.make_state(group, key) for key in part.keys]
        ((beta1, beta2),) = self.candidates(group)
        # torch's lists of tensors take a learning rate in a tensor only where a CUDA graph changes it
        lr = float(group["lr"]) if group["foreach"] and not group["capturable"] else number(group["lr"])
        function = adamw if group["decoupled_weight_decay"] else adam
        function(
            part.values,
            part.gradients(),
            part.local([state["exp_avg_0"] for state in states]),
            part.local([state["exp_avg_sq_0"] for state in states]),
            [],
            [state["step"] for state in states],
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

    def rule(self, group: dict[str, Any]) -> Rule:
        pairs = self.candidates(group)
        second = distinct_beta2(pairs)
        decoupled, decay = group["decoupled_weight_decay"], float(group["weight_decay"])
        factor = float(group["soft_reset"])
        return Rule(
            family="adam",
            betas=tuple(beta1 for beta1, _ in pairs),
            betas2=tuple(second),
            second=tuple(second.index(beta2) for _, beta2 in pairs),
            # sqrt(1 - b1^2) of the filter's norm, over the 1 - b1 that undoes the dampening of the moving average
            gains=tuple(math.sqrt(1 - beta1**2) / (1 - beta1) for beta1, _ in pairs),
            modulation=modulation(group, [power(beta1) for beta1, _ in pairs]),
            lr=number(group["lr"]),
            eps=float(group["eps"]),
            decay=decay if decoupled else 0.0,
            l2=0.0 if decoupled else decay,
            soft_reset=factor,
            second_reset={"none": 1.0, "same": factor, "square": factor**2}[group["second_order_momentum_reset_mode"]],
            stochastic=group["state_dtype"] == "bfloat16",
            maximize=group["maximize"],
        )


class GapAdamW(Adam):
    """GAP for AdamW, as ``optim="gap_adamw"`` gives it: ``Adam`` with decoupled weight decay, and GAP by default.

    The arguments are ``Adam``'s, with other defaults: decoupled weight decay, of 0.01 as in ``torch.optim.AdamW``; the
    candidates ``(0.8, 0.999)`` and ``(0.99, 0.999)``; ``type='switch_parameter_wise'``.

    ``betas=None`` stands for these candidates, or with ``type='default'`` (plain AdamW) for ``(0.9, 0.999)``.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Betas | Sequence[Betas] | None = None,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        decoupled_weight_decay: bool = True,
        type: str = "switch_parameter_wise",
        lr_modulation: bool = False,
        soft_reset: float = 0.9,
        hysteresis_threshold: int = 10,
        second_order_momentum_reset_mode: str = "none",
        J_ema: float = 0.0,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        state_dtype: str | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        if betas is None:
            betas = (0.9, 0.999) if type == "default" else DEFAULT_CANDIDATES
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            type=type,
            lr_modulation=lr_modulation,
            soft_reset=soft_reset,
            hysteresis_threshold=hysteresis_threshold,
            second_order_momentum_reset_mode=second_order_momentum_reset_mode,
            J_ema=J_ema,
            foreach=foreach,
            fused=fused,
            capturable=capturable,
            state_dtype=state_dtype,
            maximize=maximize,
            differentiable=differentiable,
        )


def parse_betas(betas: Any) -> list[Betas]:
    """One ``(beta1, beta2)`` or a sequence of them, as a list of pairs of floats.

    Raises:
        ValueError: empty, not pairs (also two bare numbers in a list, which could mean one pair or two candidates), or
            a value outside [0, 1).
    """
    pairs = list(betas) if isinstance(betas, (list, tuple)) else [betas]
    if isinstance(betas, list) and pairs and all(map(is_number, pairs)):
        candidates = ", ".join(f"({beta1!r}, 0.999)" for beta1 in pairs)
        raise ValueError(
            f"betas={betas!r} is ambiguous: give each candidate its beta2, betas=[{candidates}], or a single "
            "(beta1, beta2) as a tuple"
        )
    if len(pairs) == 2 and all(map(is_number, pairs)):
        pairs = [tuple(pairs)]
    if not pairs or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise ValueError(
            f"betas={betas!r} is malformed; expected (beta1, beta2) or a list of such pairs, one per candidate, like "
            "[(0.8, 0.999), (0.99, 0.999)]. A scheduler that cycles momentum rewrites betas: pass cycle_momentum=False."
        )
    for pair in pairs:
        if not all(is_number(b) and 0 <= b < 1 for b in pair):
            raise ValueError(f"betas={betas!r}: {tuple(pair)} is out of range; expected two numbers in [0, 1)")
    return [(float(beta1), float(beta2)) for beta1, beta2 in pairs]


def distinct_beta2(pairs: list[Betas]) -> list[float]:
    """The different beta2, in order of appearance: one second moment is kept for each."""
    return list(dict.fromkeys(beta2 for _, beta2 in pairs))


def power(beta1: float) -> float:
    """nu for ``lr_modulation``: what a step of the moving average with ``beta1`` is multiplied by for unit power."""
    return math.sqrt((1 + beta1) / (1 - beta1))
