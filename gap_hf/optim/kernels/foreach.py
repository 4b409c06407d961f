"""Kernels of torch operations: portable, and as readable as the formulas.

``Foreach`` gives whole lists to torch's ``_foreach`` operations, ``Loop`` one tensor at a time, which needs less
memory. Buffers of the parameter's dtype are updated by the same operations as torch.optim's and so round like them.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from .eight_bit import is_eight_bit
from .rounding import round_stochastically, salt
from .work import Kernel, Work, compute_dtype


class Lists:
    """torch's operations on lists of tensors: ``mul_`` is ``torch._foreach_mul_``."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, f"_foreach_{name}")


class Singly:
    """The same operations tensor by tensor. In bfloat16 some of torch's round otherwise than those on lists."""

    def __getattr__(self, name: str) -> Any:
        operation = getattr(Tensor, name)

        def each(tensors: list[Tensor], *args: Any, **kwargs: Any) -> list[Tensor]:
            return [
                operation(t, *(arg[i] if isinstance(arg, list) else arg for arg in args), **kwargs)
                for i, t in enumerate(tensors)
            ]

        return each

    def addcdiv_(
        self, tensors: list[Tensor], numerators: list[Tensor], denominators: list[Tensor], values: list[float]
    ) -> None:
        for t, numerator, denominator, value in zip(tensors, numerators, denominators, values, strict=True):
            t.addcdiv_(numerator, denominator, value=value)


class Foreach(Kernel):
    """Lists of tensors at once."""

    name: ClassVar[str] = "foreach"
    ops: ClassVar[Any] = Lists()

    def tick(self, work: Work) -> None:
        torch._foreach_add_(list({id(step): step for step in work.steps}.values()), 1)

    def observe(self, work: Work) -> Tensor:
        grads = filtered(self.ops, work)
        if work.rule.family == "adam":
            return observe_adam(self.ops, work, grads)
        return observe_sgdm(self.ops, work, grads)

    def apply(self, work: Work, choices: list[int], resets: list[bool]) -> None:
        for j in sorted(set(choices)):
            mine = work.select([i for i, choice in enumerate(choices) if choice == j])
            if work.rule.family == "adam":
                apply_adam(self.ops, mine, j)
            else:
                apply_sgdm(self.ops, mine, j)
        if any(resets):
            reset(self.ops, work.select([i for i, due in enumerate(resets) if due]))


class Loop(Foreach):
    """One tensor at a time."""

    name: ClassVar[str] = "loop"
    ops: ClassVar[Any] = Singly()

    def observe(self, work: Work) -> Tensor:
        return torch.cat([super(Loop, self).observe(work.select([i])) for i in range(len(work.values))])

    def apply(self, work: Work, choices: list[int], resets: list[bool]) -> None:
        for i, (choice, due) in enumerate(zip(choices, resets, strict=True)):
            super().apply(work.select([i]), [choice], [due])


def filtered(ops: Any, work: Work) -> list[Tensor]:
    """The gradients that enter the filter: with the L2 term where the decay is not decoupled."""
    grads = list(ops.neg(work.grads)) if work.rule.maximize else work.grads
    if work.rule.l2:
        return list(ops.add(grads, work.values, alpha=work.rule.l2))
    return grads


def cast(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """``tensors`` in ``dtype``: themselves where they have it."""
    return [(t.dequantize() if is_eight_bit(t) else t).to(dtype) for t in tensors]


def update(
    ops: Any, stored: list[Tensor], grads: list[Tensor], operation: Any, noise: list[int] | None
) -> list[Tensor]:
    """Apply ``operation(buffers, grads)``, which works in place, and store the result.

    In the buffers' dtype where the gradients have it too, else in float32 (or wider) and rounded afterwards.

    Args:
        stored: N buffers.
        grads: N gradients.
        operation: changes the first of two lists of tensors in place.
        noise: N salts for stochastic rounding; None rounds to the nearest.

    Returns:
        The new buffers as they are stored, in the precision of the scores.
    """
    if noise is None and stored[0].dtype == grads[0].dtype and not is_eight_bit(stored[0]):
        operation(stored, grads)
    else:
        wide = compute_dtype(grads[0].dtype)
        wide_grads = cast(grads, wide)
        exact = [t.clone() if t is s else t for s, t in zip(stored, cast(stored, wide), strict=True)]
        operation(exact, wide_grads)
        if noise is not None:
            exact = [round_stochastically(*all_of) for all_of in zip(exact, wide_grads, stored, noise, strict=True)]
        ops.copy_(stored, exact)
    return cast(stored, compute_dtype(stored[0].dtype))


def observe_adam(ops: Any, work: Work, grads: list[Tensor]) -> Tensor:
    """m_j and v; sum(g r m_j) for each j, then sum(r) for each second moment."""
    rule = work.rule
    steps = [step.item() for step in work.steps]
    weighted, sums = [], []
    for beta2, second in zip(rule.betas2, work.second, strict=True):

        def second_moment(v: list[Tensor], g: list[Tensor], beta2: float = beta2) -> None:
            ops.mul_(v, beta2)
            ops.addcmul_(v, g, g, value=1 - beta2)

        v = update(ops, second, grads, second_moment, None)
        r = list(ops.div(v, [1 - beta2**t for t in steps]))
        ops.sqrt_(r)
        ops.add_(r, rule.eps)
        ops.reciprocal_(r)
        sums.append([t.sum(dtype=torch.float64) for t in r])
        ops.mul_(r, cast(grads, r[0].dtype))
        weighted.append(r)
    dots = []
    for j, beta1 in enumerate(rule.betas):

        def first_moment(m: list[Tensor], g: list[Tensor], beta1: float = beta1) -> None:
            ops.lerp_(m, g, 1 - beta1)

        m = update(ops, work.first[j], grads, first_moment, salts(work, steps, j))
        products = ops.mul(weighted[rule.second[j]], m)
        dots.append([t.sum(dtype=torch.float64) for t in products])
    return torch.stack([torch.stack(column) for column in dots + sums], dim=1)


def observe_sgdm(ops: Any, work: Work, grads: list[Tensor]) -> Tensor:
    """The momentum buffers; sum(g buf_j) for each j."""
    rule = work.rule
    steps = [step.item() for step in work.steps]
    wide = cast(grads, compute_dtype(grads[0].dtype))
    dots = []
    for j, momentum in enumerate(rule.betas):

        def buffer(b: list[Tensor], g: list[Tensor], momentum: float = momentum) -> None:
            first = [i for i, t in enumerate(steps) if t == 1]
            later = [i for i, t in enumerate(steps) if t != 1]
            if first:
                ops.copy_([b[i] for i in first], [g[i] for i in first])
            if later:
                ops.mul_([b[i] for i in later], momentum)
                ops.add_([b[i] for i in later], [g[i] for i in later], alpha=1 - rule.dampening)

        products = ops.mul(wide, update(ops, work.first[j], grads, buffer, salts(work, steps, j)))
        dots.append(torch.stack([t.sum(dtype=torch.float64) for t in products]))
    return torch.stack(dots, dim=1)


def salts(work: Work, steps: list[float], j: int) -> list[int] | None:
    """What stochastic rounding needs, or None where it is off."""
    return [salt(int(t), j) for t in steps] if work.rule.stochastic else None


def apply_adam(ops: Any, work: Work, j: int) -> None:
    """Decay, then torch.optim.Adam's step by moment ``j``."""
    rule = work.rule
    beta1, beta2, lr = rule.betas[j], rule.betas2[rule.second[j]], float(rule.lr)
    steps = [step.item() for step in work.steps]
    first, second = work.first[j], work.second[rule.second[j]]
    dtype = torch.promote_types(work.values[0].dtype, second[0].dtype)
    values = cast(work.values, dtype)
    if rule.decay:
        ops.mul_(values, 1 - lr * rule.decay)
    denom = list(ops.sqrt(cast(second, dtype)))
    ops.div_(denom, [(1 - beta2**t) ** 0.5 for t in steps])
    ops.add_(denom, rule.eps)
    step_sizes = [-lr * rule.modulation[j] / (1 - beta1**t) for t in steps]
    ops.addcdiv_(values, cast(first, dtype), denom, step_sizes)
    store(ops, work, values)


def apply_sgdm(ops: Any, work: Work, j: int) -> None:
    """torch.optim.SGD's step by buffer ``j``."""
    rule = work.rule
    dtype = torch.promote_types(work.values[0].dtype, work.first[j][0].dtype)
    values, updates = cast(work.values, dtype), cast(work.first[j], dtype)
    if rule.nesterov:
        updates = list(ops.add(cast(filtered(ops, work), dtype), updates, alpha=rule.betas[j]))
    ops.add_(values, updates, alpha=-float(rule.lr) * rule.modulation[j])
    store(ops, work, values)


def store(ops: Any, work: Work, values: list[Tensor]) -> None:
    """Round new values to those of ``work``, where they were computed in the precision of its buffers."""
    if values[0] is not work.values[0]:
        ops.copy_(work.values, values)


def reset(ops: Any, work: Work) -> None:
    """Scale all buffers."""
    for buffers, factor in ((work.first, work.rule.soft_reset), (work.second, work.rule.second_reset)):
        if factor != 1:
            for tensors in buffers:
                if is_eight_bit(tensors[0]):
                    ops.copy_(tensors, ops.mul(cast(tensors, torch.float32), factor))
                else:
                    ops.mul_(tensors, factor)
