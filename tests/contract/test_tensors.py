"""Parameters and gradients of every shape, layout and dtype."""

import contextlib

import pytest
import torch

from .checks import check
from .steps import copies, mlp, parameters, random, same, train, trained, values


@check()
def test_scalars_and_empty_tensors(variant):
    return train(variant.build(parameters((), (0,), (3, 0), (2,), (1, 1, 1))), 4)


@check()
def test_only_an_empty_tensor(variant):
    return train(variant.build(parameters((0,))))


def but_torchs_fused(variant):
    """Leave out torch's fused CPU kernel, which is no control for odd layouts.

    It expects parameter, gradient and state to be laid out alike and without gaps, and is wrong otherwise.
    """
    return variant.row != "torch" or variant.kernel != "fused"


def random_gradients(params, seed=1):
    """Make contiguous gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [random(p.shape, generator) for p in params]


def beside_contiguous(variant, odd, lay_out):
    """Train ``odd`` beside contiguous copies; ``lay_out`` makes its gradients of theirs."""
    plain = [p.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for p in odd]
    optimizer, other = variant.build(odd), variant.build(plain)
    for seed in range(3):
        for p, q, grad in zip(odd, plain, random_gradients(plain, seed), strict=True):
            p.grad, q.grad = lay_out(p, grad), grad
        optimizer.step()
        other.step()
    same(values(odd), values(plain), exact=False)
    return values(odd)


def dense():
    """Make parameters that are transposed, channels last, and at an offset in their storage."""
    long, transposed, image = torch.zeros(8), *values(parameters((5, 3), (2, 3, 4, 2)))
    odd = [transposed.t(), image.contiguous(memory_format=torch.channels_last), long[3:]]
    return [p.requires_grad_() for p in odd]


def strided():
    """Make a view with gaps, and the tensor that it is a view of."""
    wide = torch.arange(24.0).reshape(4, 6)
    return wide, wide[:, ::2].requires_grad_()


@check()
def test_parameters_in_another_order(variant):
    """The gradients are in the same order, as autograd makes them."""
    return beside_contiguous(variant, dense(), lambda p, grad: torch.empty_like(p).copy_(grad))


@check(but_torchs_fused)
def test_parameters_in_another_order_than_their_gradients(variant):
    return beside_contiguous(variant, dense(), lambda p, grad: grad)


@check(but_torchs_fused)
def test_gradients_in_another_order_than_their_parameters(variant):
    return beside_contiguous(variant, parameters((4, 3)), lambda p, grad: grad.t().contiguous().t())


@check(but_torchs_fused)
def test_parameters_with_gaps(variant):
    """What lies in the gaps is left alone."""
    wide, p = strided()
    between = wide[:, 1::2].detach().clone()
    end = beside_contiguous(variant, [p], lambda p, grad: grad)
    same(wide[:, 1::2].detach(), between)
    return end


@check()
def test_expanded_gradients(variant):
    """The backward pass of a sum gives one number for all elements."""
    params = parameters((4, 3))
    optimizer = variant.build(params)
    for _ in range(3):
        optimizer.zero_grad()
        params[0].sum().backward()
        optimizer.step()
    return values(params)


@check()
def test_mixed_dtypes_in_a_group(variant):
    dtypes = (torch.float32, torch.bfloat16, torch.float32)
    params = [p.detach().to(dtype).requires_grad_() for p, dtype in zip(parameters(), dtypes, strict=True)]
    end = train(variant.build(params))
    return end if variant.row in ("torch", "default") else None  # kernels round bfloat16 differently


@check()
def test_float32_beside_float64(variant):
    params = [p.detach().to(d).requires_grad_() for p, d in zip(parameters((4,), (3,)), DOUBLE_TOO, strict=True)]
    return train(variant.build(params))


DOUBLE_TOO = (torch.float32, torch.float64)


@check()
def test_float64(variant):
    """float64 parameters end where float32 ones do, but for rounding."""
    end = train(variant.build(parameters(dtype=torch.float64)))
    assert all(p.dtype == torch.float64 for p in end)
    same([p.float() for p in end], train(variant.build(parameters())), exact=False)
    return end


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@check()
def test_low_precision(variant, dtype):
    """Parameters in low precision end where float32 ones do, but for rounding."""
    options = {"eps": 0.1} if variant.family == "adam" else {}  # squares underflow in float16
    end = train(variant.build(parameters(dtype=dtype), **options))
    wide = train(variant.build([p.detach().float().requires_grad_() for p in parameters(dtype=dtype)], **options))
    for p, q in zip(end, wide, strict=True):
        torch.testing.assert_close(p.float(), q, rtol=0.02, atol=0.005)
    return end if variant.row in ("torch", "default") else None


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@check()
def test_another_default_dtype_changes_nothing(variant, dtype):
    """float32 parameters step as ever."""
    with default_dtype(dtype):
        end = train(variant.build(parameters()), 5)
    assert all(p.dtype == torch.float32 for p in end)
    same(end, train(variant.build(parameters()), 5), exact=False)
    return end


@check()
def test_default_dtype_float64(variant):
    """The count of steps is float64, as torch's own is there."""
    with default_dtype(torch.float64):
        optimizer = variant.build(parameters(dtype=torch.float64))
        end = train(optimizer)
    steps = [state["step"] for state in optimizer.state.values() if "step" in state]
    torchs = variant.row in ("torch", "default")
    expected = torch.float32 if torchs and variant.kernel == "fused" else torch.float64
    assert all(step.dtype == expected for step in steps)
    return end


@check()
def test_saving_under_another_default_dtype(variant):
    """A state made under one is loaded under the other."""
    optimizer = variant.build(parameters())
    with default_dtype(torch.float64):
        train(optimizer, seed=1)
        saved = optimizer.state_dict()
    other = variant.build(copies(trained(optimizer)))
    other.load_state_dict(saved)
    return train(other, seed=2)


@check()
def test_parameters_on_meta(variant):
    """There are shapes and dtypes, but no numbers: a step still runs."""
    params = [p.detach().to("meta").requires_grad_() for p in parameters()]
    optimizer = variant.build(params)
    for p in params:
        p.grad = torch.empty_like(p)
    optimizer.step()
    assert all(p.is_meta for p in params)


@check(lambda variant: variant.kernel == "fused")
def test_a_step_after_one_that_failed_on_meta(variant):
    """The parameters get memory, and the optimizer goes on as a new one."""
    with torch.device("meta"):
        model = mlp()
    optimizer = variant.build(model.parameters())
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    with pytest.raises(RuntimeError, match="fused"):
        optimizer.step()
    optimizer.zero_grad()
    optimizer.param_groups[0]["params"] = list(mlp().parameters())
    end = train(optimizer)
    same(end, train(variant.build(mlp().parameters())))
    return end


@check()
def test_parameters_without_gradients_do_not_move(variant):
    params = parameters()
    optimizer = variant.build(params, weight_decay=0.1)
    start = values(params)
    optimizer.step()
    same(values(params), start)
    train(optimizer, 1)
    optimizer.zero_grad()
    state, before = optimizer.state_dict()["state"], values(params)
    steps = [float(s["step"]) for s in state.values() if "step" in s]
    optimizer.step()
    same(values(params), before)
    assert [float(s["step"]) for s in optimizer.state_dict()["state"].values() if "step" in s] == steps


@check()
def test_nothing_that_requires_a_gradient(variant):
    params = [p.detach() for p in parameters()]
    start = values(params)
    variant.build(params).step(lambda: torch.tensor([1.0]))
    same(params, start)


@check()
def test_zero_gradients_do_not_move(variant):
    params = parameters()
    start = values(params)
    optimizer = variant.build(params, weight_decay=0.0)
    for _ in range(2):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    same(values(params), start)


@check()
def test_a_layer_frozen_for_a_while(variant):
    params = parameters()
    optimizer = variant.build(params)
    train(optimizer, 2, seed=1)
    optimizer.zero_grad()
    params[1].requires_grad_(False)
    before = params[1].detach().clone()
    train(optimizer, 2, seed=2)
    same(params[1].detach(), before)
    params[1].requires_grad_(True)
    return train(optimizer, 2, seed=3)


@check()
def test_integers_that_are_not_trained(variant):
    """A buffer among the parameters never has a gradient."""
    return train(variant.build([*parameters(), torch.arange(3)]))[:3]


@check()
def test_complex_parameters(variant):
    """Complex parameters step as pairs of real numbers do."""
    real = parameters((3, 2))
    whole = [torch.view_as_complex(real[0].detach().clone()).requires_grad_()]
    other, optimizer = variant.build(real), variant.build(whole)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        real[0].grad = random((3, 2), generator)
        whole[0].grad = torch.view_as_complex(real[0].grad.clone())
        optimizer.step()
        other.step()
    same(torch.view_as_real(whole[0].detach()), real[0].detach(), exact=False)


@check()
def test_sparse_gradients(variant):
    params, plain = parameters((4, 3)), parameters((4, 3))
    optimizer, other = variant.build(params), variant.build(plain)
    plain[0].grad = torch.zeros(4, 3)
    plain[0].grad[2] = 1.0
    params[0].grad = plain[0].grad.to_sparse()
    start = values(params)
    other.step()
    try:
        optimizer.step()
    except RuntimeError:
        same(values(params), start)
        raise
    same(values(params), values(plain))


@check(lambda variant: variant.several or variant.kernel != "fused")  # torch's fused CPU kernel does not tell
def test_backward_through_a_stepped_parameter_is_noticed(variant):
    """Autograd refuses a graph that was made before the step, instead of giving wrong gradients."""
    (p,) = parameters((3,))
    optimizer = variant.build([p])
    loss = (p * p).sum()
    p.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@check()
def test_gradients_are_left_alone(variant):
    params = parameters()
    optimizer = variant.build(params, weight_decay=0.1)
    for _ in range(2):
        grads = [torch.full_like(p, 0.3) for p in params]
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad.clone()
        optimizer.step()
        same([p.grad for p in params], grads)
