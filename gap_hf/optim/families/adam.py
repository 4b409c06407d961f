"""Adam and AdamW: K first moments share their second moments."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch.optim.adam import adam
from torch.optim.adamw import adamw

from ..family import Option, TorchsDefault
from ..kernels.adam_cpu import AdamOnCPU
from ..kernels.adam_cuda import AdamOnCUDA
from ..options import given, is_flag, number
from ..shell import GapOptimizer
from ..work import Work
from .common import Betas, parse_betas
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
        {  # the first has no buffer, and the last two tie
            "betas": [(0.0, 0.99), (0.9, 0.95), (0.9, 0.95)], "lr": 0.1, "eps": 0.1, "weight_decay": 0.2,
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
