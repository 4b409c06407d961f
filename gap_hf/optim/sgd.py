"""GAP for SGD with momentum."""

import math
from typing import Any

from torch import Tensor
from torch.optim.sgd import sgd

from ..candidate import Candidate
from ..sharding.layout import Part
from .base import GapOptimizer, modulation, number
from .kernels import Rule
from .options import check_flags, check_option, is_number


class SGDM(GapOptimizer):
    r"""SGD that applies, at every step, the candidate momentum whose buffer is best aligned with the gradient.

    \[
    J_j = \sqrt{1-\mu_j^2}\, \sum g\, \mathrm{buf}_j
    \]

    (arXiv 2512.06370); the buffers and the applied step are ``torch.optim.SGD``'s.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        lr: learning rate.
        momentum: one number, or a list of K: the candidates.
        dampening: of the gradient that enters the buffers.
        weight_decay: L2 coefficient.
        nesterov: apply ``g + momentum * buf``; needs ``momentum > 0`` and ``dampening = 0``, as in torch.
        type: ``'default'`` (one candidate, exactly ``torch.optim.SGD``), ``'switch'`` (one choice for the whole model)
            or ``'switch_parameter_wise'`` (one per parameter).
        lr_modulation: scale each candidate's step to the power of the first-listed one's.
        soft_reset: factor on the buffers after ``hysteresis_threshold`` steps in a row against the gradient.
        hysteresis_threshold: that number of steps.
        J_ema: in [0, 1), moving average of the scores (``'switch'`` only).
        foreach: use torch's multi-tensor operations (``docs/speed.md``); None leaves it open.
        fused: use the fused kernel; None takes it where there is one.
        capturable: let CUDA graphs capture the step.
        state_dtype: of the buffers, ``'float32'``, ``'bfloat16'`` or ``'8bit'``; None takes the parameter's.
        maximize: step along the gradient instead of against it.
        differentiable: must be False; in the list because ``torch.optim`` has it.

    State per parameter: ``step`` (0-dim) and ``momentum_buffer_0`` ... ``momentum_buffer_{K-1}``, each of the
    parameter's shape and dtype (none for ``type='default'`` without momentum).

    Raises:
        ValueError: an option is out of range.
    """

    candidate_name = candidate_option = "momentum"

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float | list[float] = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        type: str = "default",
        lr_modulation: bool = False,
        soft_reset: float = 0.5,
        hysteresis_threshold: int = 5,
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
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "type": type,
            "lr_modulation": lr_modulation,
            "soft_reset": soft_reset,
            "hysteresis_threshold": hysteresis_threshold,
            "J_ema": J_ema,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "state_dtype": state_dtype,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def candidates(self, group: dict[str, Any]) -> list[float]:
        """The K momenta of ``group``. Raises ValueError where ``momentum`` is not one number or a list of them."""
        return parse_momentum(group["momentum"])

    def candidate_list(self, group: dict[str, Any]) -> list[Candidate]:
        """The K candidates; their value is the momentum."""
        return [Candidate(f"{m:g}", m, "sgdm") for m in self.candidates(group)]

    def _validate(self, group: dict[str, Any]) -> None:
        dampening = group["dampening"]
        check_option("dampening", dampening, is_number(dampening) and math.isfinite(dampening), "a number")
        check_flags(group, ["nesterov"])
        if group["nesterov"] and (dampening != 0 or min(self.candidates(group)) <= 0):
            raise ValueError(
                f"nesterov needs every momentum > 0 and dampening = 0; got momentum={group['momentum']!r}, "
                f"dampening={dampening!r}"
            )

    def buffers(self, group: dict[str, Any]) -> tuple[list[str], list[str]]:
        momenta = self.candidates(group)
        if group["type"] == "default" and not any(momenta):
            return [], []
        return [f"momentum_buffer_{j}" for j in range(len(momenta))], []

    def _torch_step(self, part: Part) -> None:
        group = part.group
        (momentum,) = self.candidates(group)
        states = [self.make_state(group, key) for key in part.keys]
        new = [i for i, state in enumerate(states) if momentum and not state["step"]]
        if group["fused"] and 0 < len(new) < len(
            states
        ):  # torch's fused kernel takes all with a buffer, or all without
            self._torch_step(part.select(new))
            self._torch_step(part.select([i for i in range(len(states)) if i not in new]))
            return
        mine: list[Tensor] = []
        buffers: list[Tensor | None] = [None] * len(states)
        if momentum:
            mine = part.local([state["momentum_buffer_0"] for state in states])
            # None stands for a buffer that has seen no gradient
            buffers = [b if state["step"] else None for b, state in zip(mine, states, strict=True)]
        sgd(
            part.values,
            part.gradients(),
            buffers,
            weight_decay=float(group["weight_decay"]),
            momentum=momentum,
            lr=number(group["lr"]),
            dampening=float(group["dampening"]),
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            foreach=group["foreach"],
            fused=group["fused"],
        )
        for stored, buffer, state in zip(mine, buffers, states, strict=False):
            if not state["step"] and buffer is not None:  # torch has made it
                stored.copy_(buffer)
            state["step"] += 1

    def rule(self, group: dict[str, Any]) -> Rule:
        momenta = self.candidates(group)
        powers = [power(m) for m in momenta]
        return Rule(
            family="sgdm",
            betas=tuple(momenta),
            betas2=(),
            second=(),
            gains=tuple(powers),
            modulation=modulation(group, powers),
            lr=number(group["lr"]),
            l2=float(group["weight_decay"]),
            dampening=float(group["dampening"]),
            nesterov=group["nesterov"],
            soft_reset=float(group["soft_reset"]),
            stochastic=group["state_dtype"] == "bfloat16",
            maximize=group["maximize"],
        )


def parse_momentum(momentum: Any) -> list[float]:
    """One momentum or a list of them, as a list of floats.

    Raises:
        ValueError: empty, not numbers, or a value outside [0, 1).
    """
    momenta = list(momentum) if isinstance(momentum, (list, tuple)) else [momentum]
    if not momenta or not all(is_number(m) and 0 <= m < 1 for m in momenta):
        raise ValueError(
            f"momentum={momentum!r} is malformed or out of range; expected one number in [0, 1) or a list of them, one "
            "per candidate, like [0.5, 0.9, 0.99]"
        )
    return [float(m) for m in momenta]


def power(momentum: float) -> float:
    """sqrt(1 - momentum^2): one over the norm of the momentum filter, in the score and for ``lr_modulation``."""
    return math.sqrt(1 - momentum**2)
