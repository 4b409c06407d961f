"""Adam and AdamW: K first moments share their second moments."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from ...candidate import Candidate
from ..arithmetic.operations import Operations
from ..arithmetic.precision import cast, store, update
from ..family import Choice, Option, Scored, TorchsDefault, modulation, weighted
from ..kernels.adam_cpu import AdamOnCPU
from ..kernels.adam_cuda import AdamOnCUDA
from ..options import given, is_flag, is_number, number
from ..shell import GapOptimizer
from ..uploads import constant
from ..work import Buffer, Work
from .common import filtered, pairs_of_text, salts

Betas = tuple[float, float]
DEFAULT_CANDIDATES: tuple[Betas, ...] = ((0.8, 0.999), (0.99, 0.999))
"""The candidates of ``GapAdamW`` and of ``optim="gap_adamw"``."""

RESET_MODES = ("none", "same", "square")


class AdamNumbers(NamedTuple):
    """The options as a step of the Adam family needs them.

    Attributes:
        betas: the K candidates' beta1.
        betas2: the U different beta2.
        second: K indices: the second moment that each candidate uses.
        gains: K factors of the scores.
        modulation: K factors on the learning rate.
        lr: learning rate; a tensor stays on its device.
        eps: added to the denominator.
        decay: decoupled weight decay.
        l2: weight decay through the gradient.
        maximize: take the gradients with the other sign.
        soft_reset: factor on the first moments at a reset.
        second_reset: factor on the second moments at a reset.
        stochastic: whether first moments are rounded stochastically to bfloat16.
    """

    betas: tuple[float, ...]
    betas2: tuple[float, ...]
    second: tuple[int, ...]
    gains: tuple[float, ...]
    modulation: tuple[float, ...]
    lr: float | Tensor
    eps: float = 0.0
    decay: float = 0.0
    l2: float = 0.0
    maximize: bool = False
    soft_reset: float = 1.0
    second_reset: float = 1.0
    stochastic: bool = False


class AdamFamily(Scored, TorchsDefault):
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
            "maximize": False, "state_dtype": None,
        },
        {  # the last two tie
            "betas": [(0.4, 0.99), (0.9, 0.95), (0.9, 0.95)], "lr": 0.1, "eps": 0.1, "weight_decay": 0.2,
            "decoupled_weight_decay": False, "lr_modulation": True, "soft_reset": 0.7,
            "second_order_momentum_reset_mode": "square", "maximize": True, "state_dtype": None,
        },
    )
    options: ClassVar = {
        "betas": Option(
            "one ``(beta1, beta2)``, or a list of K of them: the candidates.",
            example="betas=0.8:0.99 or, with their own beta2, betas=0.8/0.999:0.99/0.9999",
            read=pairs_of_text,
        ),
        "eps": Option("added to the denominator.", lambda x: is_number(x) and x >= 0, "a number >= 0"),
        "decoupled_weight_decay": Option(
            "decay as AdamW does instead of through the gradient.", is_flag, "True or False", resumed="run"
        ),
        "second_order_momentum_reset_mode": Option(
            "a soft reset leaves the second moments (``'none'``), scales them alike (``'same'``) or by the square "
            "(``'square'``).",
            lambda x: x in RESET_MODES, f"one of {', '.join(RESET_MODES)}",
            example="second_order_momentum_reset_mode=none, same or square", resumed="run, same type",
        ),
    }
    # fmt: on

    # ------------------------------------------------------------------ options
    def parse(self, options: Mapping[str, Any]) -> list[Betas]:
        return parse_betas(options["betas"])

    def candidates(self, options: Mapping[str, Any]) -> list[Candidate]:
        pairs = self.parse(options)
        shared = len(distinct_beta2(pairs)) == 1
        return [Candidate(f"{b1:g}" if shared else f"{b1:g}/{b2:g}", b1, self.name) for b1, b2 in pairs]

    def from_training_arguments(
        self, options: dict[str, Any], given: Mapping[str, Any], adam: Mapping[str, float]
    ) -> None:
        options.setdefault("eps", adam["epsilon"])
        if options["type"] == "default" and "betas" not in given:
            options["betas"] = [adam["beta1"]]
        options["betas"] = [b if isinstance(b, tuple) else (b, adam["beta2"]) for b in options["betas"]]

    def ignored_training_arguments(self, options: Mapping[str, Any]) -> list[str]:
        return [] if options["type"] == "default" else ["adam_beta1"]

    def buffers(self, options: Mapping[str, Any]) -> list[Buffer]:
        pairs = self.parse(options)
        soft, second = reset_factors(options)
        first = [Buffer(f"exp_avg_{j}", soft_reset=soft) for j in range(len(pairs))]
        return first + [
            Buffer(f"exp_avg_sq_{u}", compact=False, soft_reset=second, nonnegative=True)
            for u in range(len(distinct_beta2(pairs)))
        ]

    def numbers(self, options: Mapping[str, Any]) -> AdamNumbers:
        pairs = self.parse(options)
        betas2 = distinct_beta2(pairs)
        decoupled, decay = options["decoupled_weight_decay"], float(options["weight_decay"])
        soft, second = reset_factors(options)
        return AdamNumbers(
            betas=tuple(beta1 for beta1, _ in pairs),
            betas2=tuple(betas2),
            second=tuple(betas2.index(beta2) for _, beta2 in pairs),
            # sqrt(1 - b1^2) of the filter's norm, over the 1 - b1 that undoes the dampening of the moving average
            gains=tuple(math.sqrt(1 - beta1**2) / (1 - beta1) for beta1, _ in pairs),
            modulation=modulation(options, [nu(beta1) for beta1, _ in pairs]),
            lr=number(options["lr"]),
            eps=float(options["eps"]),
            decay=decay if decoupled else 0.0,
            l2=0.0 if decoupled else decay,
            maximize=options["maximize"],
            soft_reset=soft,
            second_reset=second,
            stochastic=options["state_dtype"] == "bfloat16",
        )

    # ------------------------------------------------------------------ a step
    def observe(self, ops: Operations, work: Work, answers: list[Tensor]) -> Tensor:
        numbers: AdamNumbers = work.numbers
        K, grads = len(numbers.betas), filtered(ops, work)
        steps = [step.item() for step in work.steps]
        weighted_grads, sums = [], []  # r g, and sum(r), of each second moment
        for beta2, stored in zip(numbers.betas2, work.buffers[K:], strict=True):

            def second_moment(v: list[Tensor], g: list[Tensor], beta2: float = beta2) -> None:
                ops.mul_(v, beta2)
                ops.addcmul_(v, g, g, value=1 - beta2)

            v = update(ops, stored, grads, second_moment)
            r = list(ops.div(v, [1 - beta2**t for t in steps]))
            ops.sqrt_(r)
            ops.add_(r, numbers.eps)
            ops.reciprocal_(r)
            sums.append([t.sum(dtype=torch.float64) for t in r])
            ops.mul_(r, cast(grads, r[0].dtype))
            weighted_grads.append(r)
        dots = []  # sum(g r m_j)
        for j, beta1 in enumerate(numbers.betas):

            def first_moment(m: list[Tensor], g: list[Tensor], beta1: float = beta1) -> None:
                ops.lerp_(m, g, 1 - beta1)

            m = update(ops, work.buffers[j], grads, first_moment, salts(numbers, steps, j))
            products = ops.mul(weighted_grads[numbers.second[j]], m)
            dots.append([t.sum(dtype=torch.float64) for t in products])
        return torch.stack([torch.stack(column) for column in dots + sums], dim=1)

    def sums(self, numbers: AdamNumbers) -> int:
        return len(numbers.betas) + len(numbers.betas2)

    def scores(self, numbers: AdamNumbers, sums: Tensor, numel: Tensor) -> Tensor:
        K = len(numbers.betas)
        gains = constant(numbers.gains, sums.dtype, sums.device)
        W = sums[:, K:] / numel.unsqueeze(1)
        if len(numbers.betas2) > 1:
            W = W.index_select(1, constant(numbers.second, torch.int64, sums.device))
        # a parameter without elements scores 0, not 0 / 0
        return torch.where(numel.unsqueeze(1) > 0, gains * sums[:, :K] / W.sqrt(), 0.0)

    def apply(self, ops: Operations, work: Work, answers: list[Tensor], choice: Choice) -> None:
        numbers: AdamNumbers = work.numbers
        K, lr = len(numbers.betas), float(numbers.lr)
        steps = [step.item() for step in work.steps]
        dtype = torch.promote_types(work.values[0].dtype, work.buffers[K][0].dtype)
        values = cast(work.values, dtype)
        if numbers.decay:
            ops.mul_(values, 1 - lr * numbers.decay)
        for j, weight in weighted(choice):
            beta1, u = numbers.betas[j], numbers.second[j]
            beta2 = numbers.betas2[u]
            denom = list(ops.sqrt(cast(work.buffers[K + u], dtype)))
            ops.div_(denom, [(1 - beta2**t) ** 0.5 for t in steps])
            ops.add_(denom, numbers.eps)
            step_sizes = [-lr * weight * numbers.modulation[j] / (1 - beta1**t) for t in steps]
            ops.addcdiv_(values, cast(work.buffers[j], dtype), denom, step_sizes)
        store(ops, work.values, values)

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
    distinct beta2), each of the parameter's shape and dtype.

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
        super().__init__(params, given(locals()))


class GapAdamW(Adam):
    """GAP for AdamW, the same as ``optim="gap_adamw"``: ``Adam`` with decoupled weight decay, and GAP by default.

    The arguments are ``Adam``'s, with other defaults: decoupled weight decay, of 0.01 as in ``torch.optim.AdamW``; the
    candidates ``(0.8, 0.999)`` and ``(0.99, 0.999)``; ``type='switch_parameter_wise'``.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    ``betas=None`` means these candidates or, with ``type='default'`` (plain AdamW), ``(0.9, 0.999)``.

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
        super().__init__(params, **given(locals()))


def parse_betas(betas: Any) -> list[Betas]:
    """Turn one ``(beta1, beta2)`` or a sequence of them into a list of pairs of floats.

    Raises:
        ValueError: there are none, they are not pairs (two bare numbers in a list are refused, too, since they could
            mean one pair or two candidates), or a value lies outside [0, 1).
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
    """List the different beta2 in order of appearance: one second moment is kept for each."""
    return list(dict.fromkeys(beta2 for _, beta2 in pairs))


def reset_factors(options: Mapping[str, Any]) -> tuple[float, float]:
    """The factors by which a soft reset multiplies first and second moments."""
    factor = float(options["soft_reset"])
    return factor, {"none": 1.0, "same": factor, "square": factor**2}[options["second_order_momentum_reset_mode"]]


def nu(beta1: float) -> float:
    """The factor by which ``lr_modulation`` multiplies a step with ``beta1``, so that it has unit power."""
    return math.sqrt((1 + beta1) / (1 - beta1))
