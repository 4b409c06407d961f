"""Kronecker factors: a square matrix for each axis of a tensor, by which that axis is multiplied.

The factors of a tensor lie one after another in one flat buffer. A long axis can have a diagonal factor, of which only
the diagonal is there.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor


class Axis(NamedTuple):
    """One axis of a tensor, and where its factor lies in the flat buffer of all factors.

    Attributes:
        before: how many numbers the axes before it count out.
        length: d.
        after: how many numbers the axes after it count out.
        diagonal: whether its factor is diagonal, a vector of d numbers in the place of a ``(d, d)`` matrix.
        offset: where the factor begins.
    """

    before: int
    length: int
    after: int
    diagonal: bool
    offset: int

    @property
    def size(self) -> int:
        """How many numbers the factor has."""
        return self.length if self.diagonal else self.length**2

    def flat(self, buffer: Tensor) -> Tensor:
        """Return the factor's numbers in the flat buffer, as a view."""
        return buffer[self.offset : self.offset + self.size]

    def of(self, buffer: Tensor) -> Tensor:
        """Return a view of the factor, ``(d, d)`` or ``(d,)``, in the flat buffer."""
        part = self.flat(buffer)
        return part if self.diagonal else part.view(self.length, self.length)

    def rows(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` as a matrix with d rows."""
        if self.after == 1:
            return tensor.view(self.before, self.length).T
        return tensor.view(self.before, self.length, self.after).transpose(0, 1).reshape(self.length, -1)

    def times(self, matrix: Tensor, tensor: Tensor) -> Tensor:
        """Multiply every column of ``tensor`` along this axis by a ``(d, d)`` matrix, or a diagonal ``(d,)``.

        ``tensor`` and the result are contiguous, and of any shape with these elements.
        """
        if self.diagonal:
            return tensor.view(self.before, self.length, self.after) * matrix.unsqueeze(1)
        if self.after == 1:
            return tensor.view(self.before, self.length) @ matrix.T
        if self.before == 1:
            return matrix @ tensor.view(self.length, self.after)
        # many small products, one for each index of the axes before, would take longer than these copies
        product = matrix @ self.rows(tensor)
        return product.view(self.length, self.before, self.after).transpose(0, 1).contiguous()


@lru_cache(maxsize=4096)
def axes_of(shape: torch.Size, max_axis: int) -> tuple[Axis, ...]:
    """Return the axes of a parameter that have factors: those longer than 1, or one of length 1 if there are none.

    An axis longer than ``max_axis`` has a diagonal factor. A parameter without elements has no axes.
    """
    if 0 in shape:
        return ()
    lengths = [d for d in shape if d > 1] or [1]
    axes: list[Axis] = []
    offset = 0
    for n, d in enumerate(lengths):
        axes.append(Axis(prod(lengths[:n]), d, prod(lengths[n + 1 :]), d > max_axis, offset))
        offset += axes[-1].size
    return tuple(axes)


def identity(axes: Sequence[Axis], factors: Tensor) -> None:
    """Make identities of a buffer of zeros."""
    for axis in axes:
        factor = axis.of(factors)
        (factor if axis.diagonal else factor.diagonal()).fill_(1.0)


def precondition(tensor: Tensor, axes: Sequence[Axis], factors: Tensor) -> Tensor:
    """Return ``tensor``, in its shape, multiplied by K K' along each axis."""
    result = tensor.contiguous()
    for axis in axes:
        K = axis.of(factors)
        if axis.diagonal:
            result = axis.times(K.square(), result)
        elif axis.length <= axis.before * axis.after:
            result = axis.times(K @ K.T, result)
        else:  # the tensor is thinner than the factor
            result = axis.times(K, axis.times(K.T, result))
    return result.view(tensor.shape)


def trace(axes: Sequence[Axis], factors: Tensor) -> Tensor:
    """Return the trace of the Kronecker product of all K K', 0-dim float64: the product of their sums of squares."""
    squares = [axis.flat(factors).square().sum(dtype=torch.float64) for axis in axes]
    return torch.stack(squares).prod() if squares else factors.sum(dtype=torch.float64)


def renew(
    g: Tensor,
    axes: Sequence[Axis],
    factors: Tensor,
    factor_momenta: Tensor,
    batch_size: float,
    beta2: float,
    alpha2: float,
    damping: float,
) -> None:
    """Let the factors follow the inverse curvature by one step of inverse-free Shampoo (``IFShampooFamily``).

    Args:
        g: the gradient.
        axes: its axes; each factor is updated from all factors as they were.
        factors: the flat buffer of the factors, changed in place.
        factor_momenta: a buffer like it, of their momenta, changed in place.
        batch_size: how many items the gradient is the mean of.
        beta2: the step size.
        alpha2: the decay rate of the momenta.
        damping: what is added to the curvature, times K'K.
    """
    if not axes:
        return
    # divided by all d_i here, and times d_n below, so that nothing grows with the size of the tensor
    M = (g * sqrt(batch_size / g.numel())).contiguous()
    traces = []  # tr(K'K) / d
    for axis in axes:
        K, numbers = axis.of(factors), axis.flat(factors)
        M = axis.times(K if axis.diagonal else K.T, M)
        traces.append(numbers.dot(numbers) / axis.length)
    half = (1 - alpha2) / 2
    for n, axis in enumerate(axes):
        K, m, rows = axis.of(factors), axis.of(factor_momenta), axis.rows(M)
        others = traces[:n] + traces[n + 1 :]
        damped = K * torch.stack(others).prod() if others and damping else K
        if axis.diagonal:
            m.mul_(alpha2).add_(rows.square().sum(dim=1), alpha=half * axis.length)
            m.addcmul_(damped, K, value=half * damping).sub_(half)
            step = K * m
        else:
            m.addmm_(rows, rows.T, beta=alpha2, alpha=half * axis.length)
            if damping:
                m.addmm_(damped.T, K, alpha=half * damping)
            m.diagonal().sub_(half)
            step = K @ m
        K.addcmul_(step, -beta2 / m.norm().clamp(min=1.0))
