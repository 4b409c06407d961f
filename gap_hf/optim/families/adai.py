"""Adai and AdaiW: SGD with an inertia of its own for every element (Xie et al., arXiv 2006.15815)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...candidate import Candidate
from ..arithmetic.operations import Operations
from ..arithmetic.precision import cast, store
from ..family import Option, Round, Scored
from ..kernels.adai_cpu import AdaiOnCPU
from ..kernels.adai_cuda import AdaiOnCUDA
from ..options import given, is_flag, is_number, number
from ..shell import GapOptimizer
from ..work import Buffer, Work
from .common import Betas, complete_betas, filtered, pairs_of_text


class AdaiNumbers(NamedTuple):
    """The options as a step of the Adai family needs them.

    Attributes:
        beta0: the K candidates: how far the inertia of an element with the mean second moment is from 1.
        first: K places among the buffers: each candidate's first moment.
        gains: K factors of the scores: 1, as everything is in the sums.
        modulation: K factors on the learning rate, beta0^(1 - d).
        beta2: decay rate of the second moments.
        lr: learning rate; a tensor stays on its device.
        eps: keeps the inertia at most 1 - eps.
        dampening: d; the gradient enters the first moment with the weight (1 - beta1)^d.
        decay: decoupled weight decay.
        l2: weight decay through the gradient.
        maximize: take the gradients with the other sign.
        soft_reset: factor on the first moments at a reset.
        stochastic: False; the buffers are not rounded.
    """

    beta0: tuple[float, ...]
    first: tuple[int, ...]
    gains: tuple[float, ...]
    modulation: tuple[float, ...]
    beta2: float
    lr: float | Tensor
    eps: float
    dampening: float
    decay: float
    l2: float
    maximize: bool
    soft_reset: float = 1.0
    stochastic: bool = False


class AdaiFamily(Scored):
    r"""The arithmetic of Adai, which is elementwise except for one mean over the model.

    For each gradient \(g\) and candidate \(\beta_{0,j}\), with dampening \(d\) (1 is Adai; arXiv 2006.15815, algorithm
    2):

    \[
    v \leftarrow \beta_2 v + (1-\beta_2) g^2, \qquad \hat v = v/(1-\beta_2^t), \qquad
    \bar v = \mathrm{mean}(\hat v) \text{ over all elements of all groups}
    \]
    \[
    \beta_{1,j} = \mathrm{clip}\bigl(1 - \beta_{0,j} (\hat v/\bar v)^{1/(3-2d)},\, 0,\, 1-\epsilon\bigr), \qquad
    P_j \leftarrow \beta_{1,j} P_j, \qquad m_j \leftarrow \beta_{1,j} m_j + (1-\beta_{1,j})^d g
    \]
    \[
    p \leftarrow p - \eta\, \beta_{0,j}^{1-d}\, m_j/(1-P_j)
    \]

    An element with a large second moment has little inertia. If all gradients so far were 0, so is every
    \(\hat v/\bar v\). Each element has a filter of its own, with the squared norm \(n\) if its inertia stays what it
    is; the norm of a parameter's filter is the root of their mean, and

    \[
    J_j = (\operatorname{mean}\, n_j)^{-1/2} \sum g\, m_j, \qquad n_j = \frac{(1-\beta_{1,j})^{2d}}{1-\beta_{1,j}^2}
    \]
    """

    # fmt: off
    name, candidate_name, candidate_option = "adai", "beta0", "betas"
    grid = (0.5, 0.2, 0.1, 0.05, 0.01)
    rounds: ClassVar = (Round("model", 2),)  # the sum of vhat, and of how many elements
    fused: ClassVar = {"cpu": AdaiOnCPU, "cuda": AdaiOnCUDA}
    examples: ClassVar = (
        {
            "betas": [(0.02, 0.9), (0.1, 0.9), (0.9, 0.9)], "lr": 0.1, "eps": 0.2, "dampening": 1.0,
            "weight_decay": 0.2, "decoupled_weight_decay": True, "maximize": True, "soft_reset": 0.7, "type": "switch",
        },
        {
            "betas": [(0.1, 0.99), (0.5, 0.99)], "lr": 0.1, "eps": 1e-2, "dampening": 0.5, "weight_decay": 0.2,
            "decoupled_weight_decay": False, "maximize": False, "soft_reset": 0.7, "type": "switch",
        },
    )
    options: ClassVar = {
        "betas": Option(
            "``(beta0, beta2)``: the inertia of an element with the mean second moment is 1 - beta0; or a list of K "
            "of them, with the same beta2: the candidates.",
            example="betas=0.1/0.99 or betas=0.05/0.99:0.1/0.99:0.5/0.99",
            read=pairs_of_text,
        ),
        "eps": Option(
            "the inertia is at most 1 - eps, as float32 can tell it from 1.",
            lambda x: is_number(x) and 1e-6 <= x < 1,
            "a number in [1e-6, 1)",
        ),
        "dampening": Option(
            "the gradient enters the first moment with the weight (1 - beta1)^dampening; below 1 it is AdaiV2.",
            lambda x: is_number(x) and 0 <= x <= 1,
            "a number in [0, 1]",
        ),
        "decoupled_weight_decay": Option(
            "decay apart from the gradient (AdaiW).", is_flag, "True or False", resumed="run"
        ),
    }
    # fmt: on

    # ------------------------------------------------------------------ options
    def parse(self, options: Mapping[str, Any]) -> list[Betas]:
        betas = options["betas"]
        listed = [as_tuple(pair) for pair in betas] if isinstance(betas, list) else [betas]
        pairs = [pair for pair in listed if isinstance(pair, tuple) and len(pair) == 2 and all(map(is_number, pair))]
        if not pairs or pairs != listed or not all(0 < beta0 <= 1 and 0 <= beta2 < 1 for beta0, beta2 in pairs):
            raise ValueError(
                f"betas={betas!r} is malformed or out of range; expected (beta0, beta2), like (0.1, 0.99), or a list "
                "of such pairs"
            )
        if len({beta2 for _, beta2 in pairs}) > 1:
            raise ValueError(
                f"betas={betas!r}: all candidates have the same beta2, since they are compared with one mean; give "
                "them one"
            )
        return [(float(beta0), float(beta2)) for beta0, beta2 in pairs]

    def candidates(self, options: Mapping[str, Any]) -> list[Candidate]:
        return [Candidate(f"{beta0:g}", beta0, self.name) for beta0, _ in self.parse(options)]

    def check(self, options: Mapping[str, Any]) -> None:
        if options["lr_modulation"] not in (False, "dc"):
            raise ValueError(
                f"lr_modulation={options['lr_modulation']!r} is not for Adai, whose elements have filters of different "
                "power; leave it out (all candidates have the same gain for a constant gradient)"
            )

    def from_training_arguments(
        self, options: dict[str, Any], given: Mapping[str, Any], adam: Mapping[str, float]
    ) -> None:
        complete_betas(options, 0.99)

    def decays(self, options: Mapping[str, Any]) -> tuple[float, ...]:
        return tuple(1 - beta0 for beta0, _ in self.parse(options))

    def buffers(self, options: Mapping[str, Any]) -> list[Buffer]:
        # in bfloat16, 1 - eps is 1, and the bias correction divides by 0
        wide, factor, K = torch.float32, float(options["soft_reset"]), len(self.parse(options))
        return [
            *(Buffer(f"exp_avg_{j}", dtype=wide, soft_reset=factor) for j in range(K)),
            *(Buffer(f"beta1_prod_{j}", dtype=wide, fill=1.0, nonnegative=True) for j in range(K)),
            Buffer("exp_avg_sq", dtype=wide, nonnegative=True),
        ]

    def numbers(self, options: Mapping[str, Any]) -> AdaiNumbers:
        pairs = self.parse(options)
        decoupled, decay = options["decoupled_weight_decay"], float(options["weight_decay"])
        return AdaiNumbers(
            beta0=tuple(beta0 for beta0, _ in pairs),
            first=tuple(range(len(pairs))),
            gains=(1.0,) * len(pairs),
            modulation=tuple(beta0 ** (1 - float(options["dampening"])) for beta0, _ in pairs),
            beta2=pairs[0][1],
            lr=number(options["lr"]),
            eps=float(options["eps"]),
            dampening=float(options["dampening"]),
            decay=decay if decoupled else 0.0,
            l2=0.0 if decoupled else decay,
            maximize=options["maximize"],
            soft_reset=float(options["soft_reset"]),
        )

    # ------------------------------------------------------------------ a step
    def observe(self, ops: Operations, work: Work, answers: list[Tensor]) -> Tensor:
        numbers: AdaiNumbers = work.numbers
        squares = work.buffers[-1]
        corrections = [1 - numbers.beta2 ** step.item() for step in work.steps]
        grads = cast(filtered(ops, work), squares[0].dtype)
        if not answers:
            ops.mul_(squares, numbers.beta2)
            ops.addcmul_(squares, grads, grads, value=1 - numbers.beta2)
            sums = [v.sum(dtype=torch.float64) / c for v, c in zip(squares, corrections, strict=True)]
            return torch.stack(
                [torch.stack([s, torch.full_like(s, v.numel())]) for s, v in zip(sums, squares, strict=True)]
            )
        total, count = answers[0]
        mean = torch.where(total == 0, 1.0, total / count).to(squares[0].dtype)
        ratios = list(ops.div(squares, corrections))
        ops.div_(ratios, mean.clamp(min=torch.finfo(mean.dtype).tiny))
        ops.pow_(ratios, 1 / (3 - 2 * numbers.dampening))
        dots, norms = [], []
        for j in range(len(numbers.beta0)):
            beta1, weights = self.inertia(ops, numbers, ratios, j)
            self.update(ops, work, grads, beta1, weights, j)
            if work.scored:
                dots.append([t.sum(dtype=torch.float64) for t in ops.mul(grads, work.buffers[j])])
                norms.append([t.sum(dtype=torch.float64) for t in powers(ops, numbers, beta1, weights)])
        if not work.scored:
            return torch.zeros(len(work.values), 0, dtype=torch.float64, device=mean.device)
        return torch.stack([torch.stack(column) for column in dots + norms], dim=1)

    @staticmethod
    def inertia(
        ops: Operations, numbers: AdaiNumbers, ratios: list[Tensor], j: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return beta1 of candidate ``j``, and the weight (1 - beta1)^d of the gradient."""
        beta1 = list(ops.mul(ratios, -numbers.beta0[j]))
        ops.add_(beta1, 1.0)
        ops.clamp_(beta1, 0.0, 1 - numbers.eps)
        weights = list(ops.neg(beta1))
        ops.add_(weights, 1.0)
        ops.pow_(weights, numbers.dampening)
        return beta1, weights

    @staticmethod
    def update(
        ops: Operations, work: Work, grads: list[Tensor], beta1: list[Tensor], weights: list[Tensor], j: int
    ) -> None:
        """Update the buffers of candidate ``j``."""
        moments, products = work.buffers[j], work.buffers[len(work.numbers.beta0) + j]
        ops.mul_(products, beta1)
        ops.mul_(moments, beta1)
        ops.addcmul_(moments, weights, grads)

    def sums(self, numbers: AdaiNumbers) -> int:
        return 2 * len(numbers.beta0)

    def scores(self, numbers: AdaiNumbers, sums: Tensor, numel: Tensor) -> Tensor:
        K = len(numbers.beta0)
        norms = (sums[:, K:] / numel.unsqueeze(1)).sqrt()
        # a parameter without elements scores 0, not 0 / 0
        return torch.where(numel.unsqueeze(1) > 0, sums[:, :K] / norms, 0.0)

    def apply(self, ops: Operations, work: Work, answers: list[Tensor], candidate: int) -> None:
        sizes = [float(j == candidate) for j in range(len(work.numbers.beta0))]
        self.mix(ops, work, answers, [sizes] * len(work.values))

    def mix(self, ops: Operations, work: Work, answers: list[Tensor], weights: Sequence[Sequence[float]]) -> None:
        numbers: AdaiNumbers = work.numbers
        lr, K = float(numbers.lr), len(numbers.beta0)
        values = cast(work.values, torch.promote_types(work.values[0].dtype, work.buffers[0][0].dtype))
        if numbers.decay:
            ops.mul_(values, 1 - lr * numbers.decay)
        for j, modulation in enumerate(numbers.modulation):
            if not any(of_each[j] for of_each in weights):
                continue
            corrections = list(ops.neg(work.buffers[K + j]))
            ops.add_(corrections, 1.0)
            sizes = [-lr * modulation * of_each[j] for of_each in weights]
            ops.addcdiv_(values, work.buffers[j], corrections, sizes)
        store(ops, work.values, values)


def as_tuple(pair: Any) -> Any:
    """A list, which files make of a tuple, as a tuple again."""
    return tuple(pair) if isinstance(pair, list) else pair


def powers(ops: Operations, numbers: AdaiNumbers, beta1: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Return (1 - beta1)^(2 d) / (1 - beta1^2), the squared norms of the elements' filters."""
    remainders = list(ops.mul(beta1, beta1))
    ops.mul_(remainders, -1.0)
    ops.add_(remainders, 1.0)
    found = list(ops.mul(weights, weights))
    ops.div_(found, remainders)
    return found


class Adai(GapOptimizer):
    r"""Adai: SGD whose momentum is adapted to every element, by comparing its second moment with the model's mean.

    It takes learning rates like SGD's, which are larger than Adam's (arXiv 2006.15815). ``AdaiW`` and ``AdaiV2`` are
    the same with other defaults.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    State per parameter: ``step`` (0-dim), ``exp_avg_0`` ... ``exp_avg_{K-1}``, ``beta1_prod_0`` ... and ``exp_avg_sq``,
    each of the parameter's shape, in float32 at least.

    Raises:
        ValueError: an option is out of range.
    """

    family = AdaiFamily()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-1,
        betas: Betas | list[Betas] = (0.1, 0.99),
        eps: float = 1e-3,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        dampening: float = 1.0,
        type: str = "default",
        weights: Sequence[float] | str | None = None,
        lr_modulation: bool | str = False,
        soft_reset: float = 0.9,
        hysteresis_threshold: int = 10,
        J_ema: float = 0.0,
        seed: int = 0,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, given(locals()))


class AdaiW(Adai):
    """Adai with decoupled weight decay (arXiv 2006.15815), the same as ``optim="adaiw"``.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-1,
        betas: Betas | list[Betas] = (0.1, 0.99),
        eps: float = 1e-3,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = True,
        dampening: float = 1.0,
        type: str = "default",
        weights: Sequence[float] | str | None = None,
        lr_modulation: bool | str = False,
        soft_reset: float = 0.9,
        hysteresis_threshold: int = 10,
        J_ema: float = 0.0,
        seed: int = 0,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, **given(locals()))


class AdaiV2(AdaiW):
    """AdaiW with ``dampening``, the same as ``optim="adaiv2"``: with 1, the authors' default, it is AdaiW.

    With less, the gradient enters the first moment with more weight than 1 - beta1, and the step is scaled by
    beta0^(1 - dampening) instead.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    Raises:
        ValueError: an option is out of range.
    """
