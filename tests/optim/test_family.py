"""What a family may ask for: several rounds, buffers of other shapes, whole parameters, weights instead of a choice."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import gap_hf
from gap_hf.optim.families.adam import AdamFamily
from gap_hf.optim.families.sgdm import SGDMFamily
from gap_hf.optim.kernels.foreach import Foreach, Loop
from gap_hf.optim.shell import GapOptimizer

from .toy_family import ToySGD


def gradients(ps, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in ps:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def parameters():
    return [torch.ones(4, 3, requires_grad=True), torch.ones(5, 2, 2, requires_grad=True)]


@pytest.mark.parametrize("flags", [{}, {"foreach": True}])
def test_a_toy_with_three_rounds(flags):
    ps = parameters()
    optimizer = ToySGD([{"params": ps[:1]}, {"params": ps[1:], "lr": 0.2}], **flags)
    expected, rows = [p.detach().clone() for p in ps], [torch.ones(4), torch.ones(5)]
    for seed in range(3):
        gradients(ps, seed)
        squares = [p.grad.square().sum() for p in ps]
        for e, p, square, lr, row in zip(expected, ps, squares, (0.1, 0.2), rows, strict=True):
            e -= p.grad * lr * square / (sum(squares) / 2) / square.sqrt()
            row += p.grad.square().flatten(1).sum(1)
        optimizer.step()
    for p, e, row in zip(ps, expected, rows, strict=True):
        torch.testing.assert_close(p, e)
        torch.testing.assert_close(optimizer.state[p]["rows"].float(), row)
    assert optimizer.param_groups[0]["last_choice"] == 0


def test_its_state_is_saved_and_checked():
    ps, qs = parameters(), parameters()
    one, two = ToySGD(ps), ToySGD(qs)
    gradients(ps, 0)
    one.step()
    for p, q in zip(ps, qs, strict=True):
        q.data.copy_(p.data)
    saved = copy.deepcopy(one.state_dict())
    two.load_state_dict(saved)
    for optimizer, some in ((one, ps), (two, qs)):
        gradients(some, 1)
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ps, qs, strict=True))
    saved["state"][0]["rows"] = torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"rows of parameter 0 of group 0 has the shape \(4, 3\)"):
        two.load_state_dict(saved)


def test_its_docstring_and_options():
    assert "        lr: learning rate.\n        floor: the least norm.\n" in (ToySGD.__doc__ or "")
    with pytest.raises(ValueError, match="floor='x' is out of range; expected a number|could not convert"):
        ToySGD(parameters(), floor="x")
    with pytest.raises(TypeError, match="does not describe the options colour"):

        class Undescribed(GapOptimizer):
            family = ToySGD.family

            def __init__(self, params, lr=0.1, floor=0.0, colour="red", type="default", foreach=None, fused=None):
                super().__init__(params, {})

    with pytest.raises(TypeError, match="lacks the toy family's options floor"):

        class Lacking(GapOptimizer):
            family = ToySGD.family

            def __init__(self, params, lr=0.1, type="default", foreach=None, fused=None):
                super().__init__(params, {})


@pytest.fixture
def connected():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_whole_parameters_are_not_to_be_had_in_pieces(connected):
    mesh = init_device_mesh("cpu", (1,))
    p = torch.nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]))
    p.grad = distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)])
    with pytest.raises(RuntimeError, match="the toy family needs whole parameters"):
        ToySGD([p]).step()


@pytest.mark.parametrize("kernel", [Foreach, Loop])
@pytest.mark.parametrize(
    ("family", "options"),
    [
        (AdamFamily(), gap_hf.GapAdamW([torch.zeros(1)], betas=[(0.8, 0.99), (0.9, 0.95)], lr=0.1).param_groups[0]),
        (SGDMFamily(), gap_hf.SGDM([torch.zeros(1)], momentum=[0.5, 0.9], type="switch", lr=0.1).param_groups[0]),
    ],
    ids=["adam", "sgdm"],
)
def test_weights_apply_every_candidate(family, options, kernel):
    """With weights 0 and 1 it is a choice; with others, the sum of what each candidate would do."""
    from gap_hf.optim.work import Work

    def work():
        generator = torch.Generator().manual_seed(0)
        shapes = [(4, 3), (5,)]
        values, grads = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
        declared = family.buffers(options)
        steps = [torch.zeros((), dtype=torch.float64) for _ in shapes]
        return Work(family.numbers({**options, "weight_decay": 0.0}), declared, values, grads, steps,
                    [[torch.zeros(shape) for shape in shapes] for _ in declared])  # fmt: skip

    moved = {}
    for choice in (0, 1, (1.0, 0.0), (0.0, 1.0), (0.3, 0.7)):
        some, k = work(), kernel(family)
        before = [value.clone() for value in some.values]
        k.begin(some, None)
        k.tick(some)
        k.observe(some, [])
        (k.apply if isinstance(choice, int) else k.mix)(some, [], [choice, choice], [False, False])
        moved[choice] = [value - old for value, old in zip(some.values, before, strict=True)]
    for j, weights in enumerate([(1.0, 0.0), (0.0, 1.0)]):
        for a, b in zip(moved[j], moved[weights], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    for a, b, mixed in zip(moved[0], moved[1], moved[0.3, 0.7], strict=True):
        torch.testing.assert_close(mixed, 0.3 * a + 0.7 * b, rtol=1e-4, atol=1e-6)
