"""The vocabulary between a backend and the algorithm."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Fragment:
    """The part of one parameter that lives on this rank, with its gradient, as plain local tensors.

    ``index`` is the parameter's place in its group, ``key`` the tensor under which ``optimizer.state`` files its
    buffers, ``value`` and ``grad`` are what the arithmetic works on, and ``numel`` is the element count of the *whole*
    parameter, wherever its elements lie.
    """

    index: int
    key: Tensor
    value: Tensor
    grad: Tensor
    numel: int
