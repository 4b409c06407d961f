"""torch's operations on lists of tensors, under their names for single tensors; the formulas are written in them.

There are two ways to do them. ``Lists`` hands whole lists to torch's ``_foreach`` operations. ``Singly`` goes tensor by
tensor, which needs less memory; in bfloat16 some of torch's operations on single tensors round differently.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

Tensors = list[Tensor]


class Operations:
    """The operations on lists of tensors; those whose names end in ``_`` change the first list in place.

    All take a list of N tensors first. Other arguments are lists of N (of tensors or numbers), or one for all.
    """

    add: ClassVar[Callable[..., Any]]
    add_: ClassVar[Callable[..., Any]]
    addcdiv_: ClassVar[Callable[..., Any]]
    addcmul_: ClassVar[Callable[..., Any]]
    clamp_: ClassVar[Callable[..., Any]]
    copy_: ClassVar[Callable[..., Any]]
    div: ClassVar[Callable[..., Any]]
    div_: ClassVar[Callable[..., Any]]
    lerp_: ClassVar[Callable[..., Any]]
    mul: ClassVar[Callable[..., Any]]
    mul_: ClassVar[Callable[..., Any]]
    neg: ClassVar[Callable[..., Any]]
    pow_: ClassVar[Callable[..., Any]]
    reciprocal_: ClassVar[Callable[..., Any]]
    sqrt: ClassVar[Callable[..., Any]]
    sqrt_: ClassVar[Callable[..., Any]]


def clamp_lists(tensors: Tensors, low: float, high: float) -> None:
    """Clamp lists in place, as ``Tensor.clamp_`` does: torch has one operation on lists for each bound."""
    torch._foreach_clamp_min_(tensors, low)
    torch._foreach_clamp_max_(tensors, high)


class Lists(Operations):
    """The operations, done on all tensors of a list at once."""

    add = staticmethod(torch._foreach_add)
    add_ = staticmethod(torch._foreach_add_)
    addcdiv_ = staticmethod(torch._foreach_addcdiv_)
    addcmul_ = staticmethod(torch._foreach_addcmul_)
    clamp_ = staticmethod(clamp_lists)
    copy_ = staticmethod(torch._foreach_copy_)
    div = staticmethod(torch._foreach_div)
    div_ = staticmethod(torch._foreach_div_)
    lerp_ = staticmethod(torch._foreach_lerp_)
    mul = staticmethod(torch._foreach_mul)
    mul_ = staticmethod(torch._foreach_mul_)
    neg = staticmethod(torch._foreach_neg)
    pow_ = staticmethod(torch._foreach_pow_)
    reciprocal_ = staticmethod(torch._foreach_reciprocal_)
    sqrt = staticmethod(torch._foreach_sqrt)
    sqrt_ = staticmethod(torch._foreach_sqrt_)


def each(operation: Callable[..., Tensor]) -> Any:
    """Make an operation on lists from ``operation``, which works on one tensor."""

    def on_lists(tensors: Tensors, *args: Any, **kwargs: Any) -> Tensors:
        return [
            operation(t, *(arg[i] if isinstance(arg, list) else arg for arg in args), **kwargs)
            for i, t in enumerate(tensors)
        ]

    return staticmethod(on_lists)


def addcdiv_one(t: Tensor, numerator: Tensor, denominator: Tensor, value: float) -> Tensor:
    """``Tensor.addcdiv_`` with the factor as a positional argument, as in torch's operation on lists."""
    return t.addcdiv_(numerator, denominator, value=value)


class Singly(Operations):
    """The operations, done on one tensor after another."""

    add = each(Tensor.add)
    add_ = each(Tensor.add_)
    addcdiv_ = each(addcdiv_one)
    addcmul_ = each(Tensor.addcmul_)
    clamp_ = each(Tensor.clamp_)
    copy_ = each(Tensor.copy_)
    div = each(Tensor.div)
    div_ = each(Tensor.div_)
    lerp_ = each(Tensor.lerp_)
    mul = each(Tensor.mul)
    mul_ = each(Tensor.mul_)
    neg = each(Tensor.neg)
    pow_ = each(Tensor.pow_)
    reciprocal_ = each(Tensor.reciprocal_)
    sqrt = each(Tensor.sqrt)
    sqrt_ = each(Tensor.sqrt_)
