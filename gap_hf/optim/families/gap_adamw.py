"""GAP for AdamW, with the defaults that are recommended."""

from collections.abc import Sequence
from typing import Any

from ..options import given
from ..rules.mix import is_mix
from .adam import Adam
from .common import Betas

DEFAULT_CANDIDATES: tuple[Betas, ...] = ((0.8, 0.999), (0.99, 0.999))
"""The candidates of ``GapAdamW`` and of ``optim="gap_adamw"``."""

MIX_CANDIDATES: tuple[Betas, ...] = ((0.0, 0.999), (0.9, 0.999))
"""The candidates of ``GapAdamW(type="mix")`` and of ``optim="gap_adamw_mix"``: the gradient, and AdamW's own memory."""

MIX_WEIGHTS = (0.3, 0.7)
"""Their weights."""


class GapAdamW(Adam):
    """GAP for AdamW, the same as ``optim="gap_adamw"``: ``Adam`` with decoupled weight decay, and GAP by default.

    The arguments are ``Adam``'s, with other defaults: decoupled weight decay, of 0.01 as in ``torch.optim.AdamW``; the
    candidates ``(0.8, 0.999)`` and ``(0.99, 0.999)``; ``type='switch_parameter_wise'``.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    ``betas=None`` means these candidates; with ``type='default'`` (plain AdamW) ``(0.9, 0.999)``; with ``type='mix'``
    or ``'mix_parameter_wise'`` those of ``optim="gap_adamw_mix"`` and, with ``weights=None``, its weights.

    Raises:
        ValueError: an option is out of range, or ``differentiable``.
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
        if betas is None and is_mix(type):
            betas, weights = MIX_CANDIDATES, list(MIX_WEIGHTS) if weights is None else weights
        elif betas is None:
            betas = (0.9, 0.999) if type == "default" else DEFAULT_CANDIDATES
        super().__init__(params, **given(locals()))
