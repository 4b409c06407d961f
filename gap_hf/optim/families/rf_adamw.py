"""Root-free AdamW: AdamW without the square root, for the mean gradient of a batch of known size (arXiv 2402.03496)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from ..batch_size import BATCH_SIZE, KnowsBatchSize
from ..kernels.adam_cpu import AdamOnCPU
from ..kernels.adam_cuda import AdamOnCUDA
from ..options import given
from .common import Betas
from .moments import OPTIONS, Moments


class RFAdamWFamily(Moments):
    r"""The arithmetic of root-free AdamW.

    For each gradient \(g\), the mean over a batch of B samples (arXiv 2402.03496):

    \[
    m_j \leftarrow m_j + (1-\beta_{1,j})(g - m_j), \quad v \leftarrow \beta_2 v + (1-\beta_2) B g^2, \quad
    r = 1/(v + \epsilon), \qquad p \leftarrow (1 - \eta\lambda)\, p - \eta\, r\, m_j
    \]

    with \(v = 1\) at the beginning, and no bias corrections. The paper keeps \(v/B\); kept like this, B may change from
    step to step. For a loss that is a mean of negative log likelihoods, \(B g^2\) estimates the diagonal of the Fisher
    information. So a step is not invariant to the scale of the loss: r g grows as the gradient shrinks.
    """

    # fmt: off
    name, candidate_name, candidate_option = "rf_adamw", "beta1", "betas"
    grid = (0.5, 0.8, 0.9, 0.95, 0.99)
    fused: ClassVar = {"cpu": AdamOnCPU, "cuda": AdamOnCUDA}
    examples: ClassVar = (
        {
            "betas": [(0.0, 0.99), (0.9, 0.95), (0.9, 0.95)], "lr": 0.1, "eps": 0.1, "weight_decay": 0.2,
            "batch_size": 3.0, "lr_modulation": True, "soft_reset": 0.7, "second_order_momentum_reset_mode": "square",
            "maximize": True, "state_dtype": None, "type": "switch",
        },
    )
    options: ClassVar = {**OPTIONS, "batch_size": BATCH_SIZE}
    root_free = True
    # fmt: on


class RFAdamW(KnowsBatchSize):
    r"""Root-free AdamW (arXiv 2402.03496): AdamW whose step is divided by B v, not by its square root.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    ``batch_size`` has no default, because with a wrong one the steps are wrong. Where it changes from step to step, as
    in a last, smaller batch, set ``param_group['batch_size']``; ``param_group['last_batch_size']`` is what the last
    step used.

    State per parameter: ``step`` (0-dim), ``exp_avg_0`` ... ``exp_avg_{K-1}`` of the parameter's dtype, and
    ``exp_avg_sq_0`` ... (one per distinct beta2, 1 at the beginning, in float32 at least), each of the parameter's
    shape. A candidate with beta1 = 0 has no ``exp_avg_j``, which would be the gradient itself.

    Raises:
        ValueError: an option is out of range, or ``differentiable``.
    """

    family = RFAdamWFamily()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Betas | Sequence[Betas] = (0.9, 0.999),
        eps: float = 1e-4,
        weight_decay: float = 1e-2,
        *,
        batch_size: float | str,
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
