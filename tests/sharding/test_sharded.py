import pytest
import torch

from gap_hf.sharding.sharded import BITS, pack, unpack


@pytest.mark.parametrize("n", [1, BITS - 1, BITS, BITS + 1, 3 * BITS, 1000])
def test_flags_survive_the_sum_over_ranks(n):
    """Every flag is set on one rank at most; a float64 carries 52 of them exactly."""
    generator = torch.Generator().manual_seed(n)
    owner = torch.randint(0, 4, (n,), generator=generator)
    words = [pack(owner == rank) for rank in range(3)]
    assert all(w.dtype == torch.float64 and len(w) == -(-n // BITS) for w in words)
    assert torch.equal(unpack(sum(words), n), owner < 3)


@pytest.mark.parametrize("value", [True, False])
def test_all_alike(value):
    flags = torch.full((2 * BITS + 7,), value)
    assert torch.equal(unpack(pack(flags), len(flags)), flags)


def test_no_flags():
    assert unpack(pack(torch.zeros(0, dtype=torch.bool)), 0).tolist() == []
