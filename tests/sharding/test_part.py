import pytest
import torch

from gap_hf.sharding.part import Part


class Multiples:
    """A cut whose fragments can be told apart."""

    def __init__(self, factors):
        self.factors = factors

    def __call__(self, tensors):
        return [factor * tensor for factor, tensor in zip(self.factors, tensors, strict=True)]

    def select(self, chosen):
        return Multiples([self.factors[i] for i in chosen])


@pytest.fixture
def part():
    keys = [torch.full((n,), float(n)) for n in (1, 2, 3)]
    grads = [torch.ones(1), None, torch.ones(3)]
    return Part(0, {}, (4, 5, 6), keys, [key * 10 for key in keys], grads, Multiples([10, 20, 30]), (1, 2, 4))


@pytest.mark.parametrize("chosen", [[2, 0, 1], [1], [], range(1, 3), [0, 0, 1]])
def test_select_takes_them_in_the_given_order(part, chosen):
    """Also as many as there are, in another order."""
    some = part.select(chosen)
    assert some.rows == tuple(part.rows[i] for i in chosen)
    assert some.copies == tuple(part.copies[i] for i in chosen)
    assert some.cut.factors == [part.cut.factors[i] for i in chosen]
    for name in ("keys", "values", "grads"):
        mine, whole = getattr(some, name), getattr(part, name)
        assert len(mine) == len(chosen)
        assert all(column is whole[i] for column, i in zip(mine, chosen, strict=True)), name
    assert (some.g, some.group) == (part.g, part.group)


def test_all_of_them_cost_nothing(part):
    assert part.select(range(3)) is part
    part.grads[1] = torch.ones(2)
    assert part.with_grad() is part


def test_those_with_a_gradient(part):
    assert part.with_grad().rows == (4, 6)


def test_select_without_cuts(part):
    part.cut = None
    some = part.select([2, 1])
    assert some.cut is None
    tensors = [torch.ones(3), torch.ones(2)]
    assert some.local(tensors) is tensors
