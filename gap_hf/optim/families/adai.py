"""Adai and AdaiW: SGD with an inertia of its own for every element (Xie et al., arXiv 2006.15815)."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...candidate import Candidate
from ..arithmetic.operations import Operations
from ..arithmetic.precision import cast, store
from ..family import Family, Option, Round
from ..options import given, is_flag, is_number, number
from ..shell import GapOptimizer
from ..work import Buffer, Work
from .common import filtered

Betas = tuple[float, float]


class AdaiNumbers(NamedTuple):
    """The options as a step of the Adai family needs them.

    Attributes:
        beta0: how far the inertia of an element with the mean second moment is from 1.
        beta2: decay rate of the second moments.
        lr: learning rate; a tensor stays on its device.
        eps: keeps the inertia at most 1 - eps.
        dampening: d; the gradient enters the first moment with the weight (1 - beta1)^d.
        decay: decoupled weight decay.
        l2: weight decay through the gradient.
        maximize: take the gradients with the other sign.
    """

    beta0: float
    beta2: float
    lr: float | Tensor
    eps: float
    dampening: float
    decay: float
    l2: float
    maximize: bool


class AdaiFamily(Family):
    r"""The arithmetic of Adai, which is elementwise except for one mean over the model.

    For each gradient \(g\), with dampening \(d\) (1 is Adai; arXiv 2006.15815, algorithm 2):

    \[
    v \leftarrow \beta_2 v + (1-\beta_2) g^2, \qquad \hat v = v/(1-\beta_2^t), \qquad
    \bar v = \mathrm{mean}(\hat v) \text{ over all elements of all groups}
    \]
    \[
    \beta_1 = \mathrm{clip}\bigl(1 - \beta_0 (\hat v/\bar v)^{1/(3-2d)},\, 0,\, 1-\epsilon\bigr), \qquad
    P \leftarrow \beta_1 P, \qquad m \leftarrow \beta_1 m + (1-\beta_1)^d g
    \]
    \[
    p \leftarrow p - \eta\, \beta_0^{1-d}\, m/(1-P)
    \]

    An element with a large second moment has little inertia. If all gradients so far were 0, so is every
    \(\hat v/\bar v\).
    """

    name, candidate_name, candidate_option = "adai", "beta0", "betas"
    rounds: ClassVar = (Round("model", 2),)  # the sum of vhat, and of how many elements
    options: ClassVar = {
        "betas": Option(
            "``(beta0, beta2)``: the inertia of an element with the mean second moment is 1 - beta0.",
            example="betas=0.1/0.99",
            read=lambda text: tuple(map(float, text.split("/"))),
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

    # ------------------------------------------------------------------ options
    def parse(self, options: Mapping[str, Any]) -> list[Betas]:
        betas = options["betas"]
        pair = isinstance(betas, (list, tuple)) and len(betas) == 2 and all(map(is_number, betas))
        if not pair or not 0 < betas[0] <= 1 or not 0 <= betas[1] < 1:
            raise ValueError(f"betas={betas!r} is malformed or out of range; expected (beta0, beta2), like (0.1, 0.99)")
        return [(float(betas[0]), float(betas[1]))]

    def candidates(self, options: Mapping[str, Any]) -> list[Candidate]:
        ((beta0, _),) = self.parse(options)
        return [Candidate(f"{beta0:g}", beta0, self.name)]

    def buffers(self, options: Mapping[str, Any]) -> list[Buffer]:
        # in bfloat16, 1 - eps is 1, and the bias correction divides by 0
        return [
            Buffer("exp_avg", dtype=torch.float32),
            Buffer("exp_avg_sq", dtype=torch.float32, nonnegative=True),
            Buffer("beta1_prod", dtype=torch.float32, fill=1.0, nonnegative=True),
        ]

    def numbers(self, options: Mapping[str, Any]) -> AdaiNumbers:
        ((beta0, beta2),) = self.parse(options)
        decoupled, decay = options["decoupled_weight_decay"], float(options["weight_decay"])
        return AdaiNumbers(
            beta0=beta0,
            beta2=beta2,
            lr=number(options["lr"]),
            eps=float(options["eps"]),
            dampening=float(options["dampening"]),
            decay=decay if decoupled else 0.0,
            l2=0.0 if decoupled else decay,
            maximize=options["maximize"],
        )

    # ------------------------------------------------------------------ a step
    def observe(self, ops: Operations, work: Work, answers: list[Tensor]) -> Tensor:
        numbers: AdaiNumbers = work.numbers
        exp_avg, exp_avg_sq, beta1_prod = work.buffers
        corrections = [1 - numbers.beta2 ** step.item() for step in work.steps]
        grads = cast(filtered(ops, work), exp_avg[0].dtype)
        if not answers:
            ops.mul_(exp_avg_sq, numbers.beta2)
            ops.addcmul_(exp_avg_sq, grads, grads, value=1 - numbers.beta2)
            sums = [v.sum(dtype=torch.float64) / c for v, c in zip(exp_avg_sq, corrections, strict=True)]
            return torch.stack(
                [torch.stack([s, torch.full_like(s, v.numel())]) for s, v in zip(sums, exp_avg_sq, strict=True)]
            )
        total, count = answers[0]
        dtype = exp_avg[0].dtype
        mean = torch.where(total == 0, 1.0, total / count).to(dtype).clamp(min=torch.finfo(dtype).tiny)
        beta1 = list(ops.div(exp_avg_sq, corrections))
        ops.div_(beta1, mean)
        ops.pow_(beta1, 1 / (3 - 2 * numbers.dampening))
        ops.mul_(beta1, -numbers.beta0)
        ops.add_(beta1, 1.0)
        ops.clamp_(beta1, 0.0, 1 - numbers.eps)
        ops.mul_(beta1_prod, beta1)
        ops.mul_(exp_avg, beta1)
        weights = list(ops.neg(beta1))
        ops.add_(weights, 1.0)
        ops.pow_(weights, numbers.dampening)
        ops.addcmul_(exp_avg, weights, grads)
        return torch.zeros(len(work.values), 0, dtype=torch.float64, device=mean.device)

    def apply(self, ops: Operations, work: Work, answers: list[Tensor], candidate: int) -> None:
        numbers: AdaiNumbers = work.numbers
        exp_avg, _, beta1_prod = work.buffers
        lr = float(numbers.lr)
        values = cast(work.values, torch.promote_types(work.values[0].dtype, exp_avg[0].dtype))
        if numbers.decay:
            ops.mul_(values, 1 - lr * numbers.decay)
        corrections = list(ops.neg(beta1_prod))
        ops.add_(corrections, 1.0)
        size = -lr * numbers.beta0 ** (1 - numbers.dampening)
        ops.addcdiv_(values, exp_avg, corrections, [size] * len(values))
        store(ops, work.values, values)


class Adai(GapOptimizer):
    r"""Adai: SGD whose momentum is adapted to every element, by comparing its second moment with the model's mean.

    It takes learning rates like SGD's, which are larger than Adam's (arXiv 2006.15815). There is nothing to choose yet:
    ``type`` is ``'default'``. ``AdaiW`` and ``AdaiV2`` are the same with other defaults.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    State per parameter: ``step`` (0-dim), ``exp_avg``, ``exp_avg_sq`` and ``beta1_prod``, each of the parameter's
    shape, in float32 at least.

    Raises:
        ValueError: an option is out of range.
    """

    family = AdaiFamily()

    def __init__(
        self,
        params: Any,
        lr: float = 1e-1,
        betas: Betas = (0.1, 0.99),
        eps: float = 1e-3,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        dampening: float = 1.0,
        type: str = "default",
        foreach: bool | None = None,
        fused: bool | None = None,
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
        betas: Betas = (0.1, 0.99),
        eps: float = 1e-3,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = True,
        dampening: float = 1.0,
        type: str = "default",
        foreach: bool | None = None,
        fused: bool | None = None,
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
