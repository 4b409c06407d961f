"""Buffers as bytes, as FSDP1's checkpoints get them."""

import pytest
import torch

import gap_hf
from gap_hf.optim.packed import pack, unpack

SHAPE = torch.Size([3, 4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back_through_a_file(tmp_path, dtype):
    factors, other = torch.randn(SHAPE, dtype=dtype), torch.ones(2)
    given = {"state": {0: {"factors": factors, "other": other}}, "param_groups": []}
    packed = pack(given, {"factors"})
    torch.save(packed, tmp_path / "state.pt")
    read = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(unpack(read["state"][0]["factors"], SHAPE, "factors"), factors)
    assert torch.equal(read["state"][0]["other"], other)
    assert given["state"][0]["factors"] is factors, "the optimizer's own state stays as it is"


def test_nothing_to_pack():
    assert (
        unpack(pack({"state": {0: {"x": torch.zeros(0)}}}, {"x"})["state"][0]["x"], torch.Size([0]), "x").numel() == 0
    )


def test_bytes_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"this state is of another model: x has 20 bytes; expected one of \[48, 96\]"):
        unpack(bytes(20), SHAPE, "x")


def shampoo() -> gap_hf.IFShampoo:
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(SHAPE))
    optimizer = gap_hf.IFShampoo([p], batch_size=4)
    p.grad = torch.randn(SHAPE)
    optimizer.step()
    return optimizer


def test_an_optimizer_takes_bytes_for_what_they_stand_for():
    trained, fresh = shampoo(), shampoo()
    fresh.load_state_dict(pack(trained.state_dict(), {"factors", "factor_momenta"}))
    (mine,), (theirs,) = fresh.state.values(), trained.state.values()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_other_buffers_may_not_be_bytes():
    packed = pack(shampoo().state_dict(), {"momentum_buffer_0"})
    with pytest.raises(ValueError, match="momentum_buffer_0 of parameter 0 of group 0 is a Packed, not a tensor"):
        shampoo().load_state_dict(packed)
