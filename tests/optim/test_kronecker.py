"""Kronecker factors: each product against the same one written as one large matrix, or as an einsum."""

import functools

import pytest
import torch

from gap_hf.optim.arithmetic.kronecker import axes_of, identity, precondition, renew, trace

SHAPES = [(5,), (4, 3), (3, 8), (2, 3, 4), (2, 3, 2, 2)]


def factors_of(axes):
    """Random factors, and the same ones as full matrices."""
    torch.manual_seed(0)
    flat = torch.randn(sum(axis.size for axis in axes), dtype=torch.float64)
    return flat, [axis.of(flat).diag() if axis.diagonal else axis.of(flat) for axis in axes]


def test_the_axes_of_a_parameter():
    first, second = axes_of(torch.Size([6, 1, 3]), 4)
    assert first == (1, 6, 3, True, 0)
    assert second == (6, 3, 1, False, 6)
    assert (first.size, second.size) == (6, 9)
    assert axes_of(torch.Size([]), 4) == axes_of(torch.Size([1, 1]), 4) == ((1, 1, 1, False, 0),)
    assert axes_of(torch.Size([0, 3]), 4) == ()


@pytest.mark.parametrize("longest", [100, 3, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_the_whole_matrix(shape, longest):
    axes = axes_of(torch.Size(shape), longest)
    flat, dense = factors_of(axes)
    G = torch.randn(shape, dtype=torch.float64)
    P = functools.reduce(torch.kron, [K @ K.T for K in dense])
    found = precondition(G, axes, flat)
    assert found.shape == G.shape
    torch.testing.assert_close(found.flatten(), P @ G.flatten())
    torch.testing.assert_close(trace(axes, flat), P.trace())
    for n, (axis, K) in enumerate(zip(axes, dense, strict=True)):
        product = axis.times(axis.of(flat), G).reshape(shape)
        assert product.is_contiguous()
        torch.testing.assert_close(product, torch.tensordot(K, G, ([1], [n])).movedim(0, n))
        rows = G.movedim(n, 0).reshape(len(K), -1)
        torch.testing.assert_close(axis.rows(G) @ axis.rows(G).T, rows @ rows.T)


def test_a_gradient_that_is_not_contiguous():
    axes = axes_of(torch.Size([4, 3]), 100)
    flat, _ = factors_of(axes)
    G = torch.randn(3, 4, dtype=torch.float64).T
    torch.testing.assert_close(precondition(G, axes, flat), precondition(G.contiguous(), axes, flat))
    one, two = flat.clone(), flat.clone()
    renew(G, axes, one, torch.zeros_like(flat), 8, 0.01, 0.5, 1e-3)
    renew(G.contiguous(), axes, two, torch.zeros_like(flat), 8, 0.01, 0.5, 1e-3)
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("longest", [100, 1])
def test_factors_become_the_inverse_root_of_the_curvature(longest):
    """For one axis, K' S K = I is where they stay: K K' is the inverse of the mean of B g g'.

    It ends 10 % above, because steps of large gradients are cut to the length beta2.
    """
    axes = axes_of(torch.Size([3]), longest)
    factors, momenta = (torch.zeros(axes[0].size, dtype=torch.float64) for _ in range(2))
    identity(axes, factors)
    scale = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    seen = []
    for t in range(20_000):
        g = scale * torch.randn(3, generator=generator, dtype=torch.float64)
        renew(g, axes, factors, momenta, 1.0, 0.003, 0.5, 0.0)
        if t >= 5000:
            K = axes[0].of(factors)
            seen.append((K.square() if longest == 1 else (K @ K.T).diag()).clone())
    torch.testing.assert_close(torch.stack(seen).mean(0), 1 / scale**2, rtol=0.15, atol=0)


def test_damping_is_added_to_the_curvature():
    """Without any gradient the factors grow until lambda times all of them makes the identity."""
    axes = axes_of(torch.Size([3, 2]), 100)
    factors, momenta = (torch.zeros(13, dtype=torch.float64) for _ in range(2))
    identity(axes, factors)
    for _ in range(2000):
        renew(torch.zeros(3, 2, dtype=torch.float64), axes, factors, momenta, 1.0, 0.1, 0.5, 0.25)
    torch.testing.assert_close(trace(axes, factors), torch.tensor(6 / 0.25, dtype=torch.float64))


def test_factors_never_lose_their_inverse():
    """A step takes away at most beta2 of a factor, however large the gradient."""
    axes = axes_of(torch.Size([3]), 100)
    factors, momenta = (torch.zeros(9, dtype=torch.float64) for _ in range(2))
    identity(axes, factors)
    for _ in range(10):
        renew(torch.full((3,), 1e12, dtype=torch.float64), axes, factors, momenta, 1.0, 0.5, 0.5, 1e-3)
    assert torch.isfinite(factors).all()
    assert float(torch.linalg.svdvals(axes[0].of(factors)).min()) >= 0.5**10 * (1 - 1e-9)
