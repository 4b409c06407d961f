"""One step of power iteration for the largest singular values of matrices that lie in fragments.

A parameter is a stack of matrices with R rows and C columns, its last two dimensions. The vectors of a stack lie one
behind the other. What a product returns is a fragment's share, which must be added up over the fragments. All
products are made in float64, so that the way in which a matrix is cut does not show.
"""

import math

import torch
from torch import Tensor

from .boxes import Place, boxes


def is_matrix(shape: torch.Size) -> bool:
    """Whether the last two dimensions are those of a matrix, not of a vector."""
    return len(shape) >= 2 and 1 not in shape[-2:] and 0 not in shape


def columns(shape: torch.Size) -> int:
    """How many numbers W'u has, for all matrices of a parameter; none if it is no matrix."""
    return math.prod(shape[:-2]) * shape[-1] if is_matrix(shape) else 0


def rows(shape: torch.Size) -> int:
    """How many numbers W v has."""
    return math.prod(shape[:-1]) if is_matrix(shape) else 0


def no_vector(length: int, values: Tensor) -> Tensor:
    """Zeros to add products to."""
    return torch.zeros(length, dtype=torch.float64, device=values.device)


def stack(fragment: Tensor, place: Place) -> Tensor | None:
    """A whole parameter as one stack of matrices, ``(S, R, C)``, for which there are batched products."""
    return fragment.view(-1, *place.shape[-2:]) if fragment.shape == place.shape else None


def left_product(W: Tensor, left: Tensor, place: Place) -> Tensor:
    """This fragment's share of W'u.

    Args:
        W: the fragment.
        left: u, each number as often as its row has elements, cut as W is.
        place: where the fragment lies.
    """
    if (matrices := stack(W, place)) is not None:
        u = left.view(matrices.shape)[:, :, :1].double()
        return (u.mT @ matrices.double()).flatten()
    found, C = no_vector(columns(place.shape), W), place.shape[-1]
    for box, of_box in zip(boxes(W, place.shape, place.start), boxes(left, place.shape, place.start), strict=True):
        found[box.columns(C)] += of_box.values[:, 0].double() @ box.values.double()
    return found


def right_product(W: Tensor, v: Tensor, place: Place) -> Tensor:
    """This fragment's share of W v, ``v`` being whole."""
    C = place.shape[-1]
    if (matrices := stack(W, place)) is not None:
        return (matrices.double() @ v.view(-1, C, 1)).flatten()
    found = no_vector(rows(place.shape), W)
    for box in boxes(W, place.shape, place.start):
        found[box.rows] += box.values.double() @ v[box.columns(C)]
    return found


def turn(left: Tensor, Wv: Tensor, place: Place) -> None:
    """Replace u by W v, scaled to length 1; that of a matrix of zeros stays."""
    norms = norms_of(Wv, place)
    if (of_all := stack(left, place)) is not None:
        new = (Wv.view(norms.numel(), -1) / norms.unsqueeze(1)).to(left.dtype).unsqueeze(2)
        of_all.copy_(torch.where(norms.view(-1, 1, 1) > 0, new, of_all))
        return
    for box in boxes(left, place.shape, place.start):
        norm = norms[box.matrix]
        u = (Wv[box.rows] / norm).to(left.dtype).unsqueeze(1)
        box.values.copy_(torch.where(norm > 0, u.expand_as(box.values), box.values))


def subtract(W: Tensor, left: Tensor, v: Tensor, Wv: Tensor, part: float, place: Place) -> None:
    """Subtract ``part`` of the largest singular value: ``part |W v| u v'``."""
    norms, C = norms_of(Wv, place), place.shape[-1]
    if (matrices := stack(W, place)) is not None:
        right = (-part * norms.unsqueeze(1) * v.view(-1, C)).to(W.dtype).unsqueeze(1)
        matrices.addcmul_(left.view(matrices.shape), right)
        return
    for box, u in zip(boxes(W, place.shape, place.start), boxes(left, place.shape, place.start), strict=True):
        right = (-part * norms[box.matrix] * v[box.columns(C)]).to(W.dtype)
        box.values.addcmul_(u.values, right.expand_as(u.values))


def norms_of(Wv: Tensor, place: Place) -> Tensor:
    """|W v| of each matrix of the stack."""
    return Wv.view(-1, place.shape[-2]).norm(dim=1)


def unit(x: Tensor, length: int) -> Tensor:
    """Scale the vectors of ``length`` that lie one behind the other in ``x`` to length 1; those of 0 stay."""
    table = x.view(-1, length)
    norms = table.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, table / norms, table).view(-1)
