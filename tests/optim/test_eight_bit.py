"""First moments in 8 bits."""

import math

import pytest
import torch

import gap_hf
from gap_hf.optim.arithmetic import eight_bit
from gap_hf.optim.arithmetic.rounding import Draw
from gap_hf.optim.codes import widened
from gap_hf.optim.reference.adam import ReferenceAdam

from .twins import KERNELS, needs_fused, random_gradients

BETAS = [(0.8, 0.999), (0.99, 0.999)]
PAIRS = [(0.5, 0.9), (0.8, 0.999), (0.9, 0.95), (0.9, 0.999), (0.99, 0.999), (0.999, 0.9999), (0.95, 0.99)]
CODES = torch.arange(256, dtype=torch.int32).to(torch.uint8)


def built(p, **options):
    return gap_hf.GapAdamW([p], betas=BETAS, type="switch_parameter_wise", state_dtype="8bit", **options)


# ---------------------------------------------------------------- the codes
@pytest.mark.parametrize("v", [0.0, 1e-42, 1e-20, 0.3, 0.7, 1.0, 1e9, 3e38])
def test_a_code_is_the_code_of_what_it_stands_for(v):
    floor = eight_bit.floors(torch.full((256,), v), -4)
    numbers = eight_bit.decode(CODES, floor)
    assert torch.equal(eight_bit.encode(numbers, floor), CODES)
    assert numbers.isfinite().all()
    assert (numbers[:127].diff() > 0).all()
    assert torch.equal(numbers[:128], -numbers[128:])


def test_rounding_to_the_nearest():
    floor = eight_bit.floors(torch.ones(100_000), -4)
    x = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 30 - 15
    found = eight_bit.decode(eight_bit.encode(x, floor), floor)
    numbers = eight_bit.decode(CODES, floor[:256]).sort().values
    above = numbers[torch.searchsorted(numbers, x).clamp(max=255)]
    below = numbers[(torch.searchsorted(numbers, x) - 1).clamp(min=0)]
    torch.testing.assert_close(
        (x - found).abs(), torch.minimum((above - x).abs(), (x - below).abs()), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("value", [0.0004, 0.011, 0.3, 2.7, 14.0])
def test_stochastic_rounding_has_no_bias(value):
    """The mean of 10^6 is off by less than five of its standard deviations."""
    n, generator = 1_000_000, torch.Generator().manual_seed(0)
    grads, old = torch.randn(n, generator=generator), torch.randint(0, 256, (n,), generator=generator).to(torch.uint8)
    floor = eight_bit.floors(torch.ones(n), -4)
    for j in range(2):
        code = eight_bit.encode(torch.full((n,), value), floor, eight_bit.noise(grads, old, Draw(9, j)))
        found = eight_bit.decode(code, floor).double()
        assert abs(found.mean() - value) < 5 * found.std() / math.sqrt(n) + 1e-6 * value


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", ["the worst", "one", "random"])
def test_no_moment_is_larger_than_the_largest_code(pair, kind):
    """In the worst case each gradient is what makes the first moment as large as the second allows."""
    beta1, beta2 = pair
    n = 4 * round(1 / (1 - beta1))
    gradients = {
        "the worst": torch.tensor([(beta2 / beta1) ** k for k in range(n)], dtype=torch.float64),
        "one": torch.eye(1, n, dtype=torch.float64)[0],
        "random": torch.randn(n, generator=torch.Generator().manual_seed(0)).double(),
    }[kind]
    m = v = torch.zeros((), dtype=torch.float64)
    for g in gradients:
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        floor = eight_bit.floors(v.float(), eight_bit.exponent(*pair)).view(torch.float32)
        assert m.abs() < 243 * floor
    if kind == "the worst":
        assert m.abs() > 50 * floor, "the codes are not wasted, either"


# ---------------------------------------------------------------- in the optimizer
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan, -math.nan])
def test_gradients_that_are_not_finite_show(kernel, bad):
    """As in float32: the parameter's element becomes NaN, and no other."""
    p = torch.ones(64, requires_grad=True)
    optimizer = built(p, **KERNELS[kernel])
    for grad in (1.0, bad, 1.0):
        p.grad = torch.ones(64)
        p.grad[3] = grad
        optimizer.step()
    assert p.isnan().nonzero().tolist() == [[3]]


@pytest.mark.parametrize("kernel", KERNELS)
def test_moments_are_those_of_float32_but_for_rounding(kernel):
    p, q = (torch.zeros(64, 256).requires_grad_() for _ in range(2))
    optimizer = built(p, **KERNELS[kernel])
    wide = gap_hf.GapAdamW([q], betas=BETAS, type="switch_parameter_wise", foreach=False)
    for _ in random_gradients([p], 60):
        p.grad += 0.3
        q.grad = p.grad.clone()
        optimizer.step()
        wide.step()
    found = widened(optimizer.family.buffers(optimizer.param_groups[0]), optimizer.state[p])
    torch.testing.assert_close(found["exp_avg_sq_0"], wide.state[q]["exp_avg_sq_0"], rtol=1e-5, atol=1e-7)
    for name, largest in (("exp_avg_0", 0.05), ("exp_avg_1", 0.15)):
        right = wide.state[q][name]
        assert (found[name] - right).norm() < largest * right.norm()
        assert found[name].mean() == pytest.approx(right.mean().item(), rel=0.01), "no bias"


class ReferenceIn8Bits(ReferenceAdam):
    """The reference with first moments in 8 bits, by numbers instead of bits.

    After a step |m| + f is one of the numbers that have 4 bits of mantissa behind the leading one. What is scored is
    the moment before that.
    """

    def score(self, group, p):
        state, old = self.state[p], {}
        for j in range(len(group["betas"])):
            old[j] = state.get(f"code_{j}", torch.zeros(p.shape, dtype=torch.int64))
        J = super().score(group, p)
        for j, (beta1, beta2) in enumerate(group["betas"]):
            m, v = state[f"m_{j}"].double(), state[f"v_{j}"].double()
            d = math.ceil(math.log2((1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2)) / 120))
            f = 2.0 ** (v.sqrt().log2().floor() + d)
            a = (m.abs() + f).float().double()
            step = 2.0 ** (a.log2().floor() - 4)
            a = (a / step + noise_of(p.grad, old[j], state["t"], j) / 2**19).floor() * step
            size = 16 * (a.log2().floor() - f.log2()) + (a / 2.0 ** a.log2().floor() - 1) * 16
            state[f"code_{j}"] = (size + 128 * (m < 0)).long()
            state[f"stored_{j}"] = ((a - f) * m.sign()).float()
        return J

    def apply(self, group, p, weights):
        for j in range(len(group["betas"])):
            self.state[p][f"m_{j}"].copy_(self.state[p][f"stored_{j}"])
        super().apply(group, p, weights)


def noise_of(grad, code, t, j):
    """19 bits of ``lowbias32`` for each element, by Python's integers."""

    def noise(bits, c):
        x = bits + t * 0x9E3779B9 + j // 2 * 0x85EBCA6B & 0xFFFFFFFF
        x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
        x = (x ^ x >> 15) * 0x846CA68B & 0xFFFFFFFF
        x ^= x >> 16
        return (x >> 13 if j % 2 else x) + c * 0x9E3B & 0x7FFFF

    bits = (grad.flatten().view(torch.int32).long() & 0xFFFFFFFF).tolist()
    found = [noise(x, c) for x, c in zip(bits, code.flatten().tolist(), strict=True)]
    return torch.tensor(found, dtype=torch.float64).view_as(grad)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("type_", ["switch", "switch_parameter_wise"])
def test_choices_are_the_twins(kernel, type_):
    generator = torch.Generator().manual_seed(0)
    ps = [torch.randn(shape, generator=generator).requires_grad_() for shape in [(31, 9), (7,), (64,)]]
    twins = [p.detach().clone().requires_grad_() for p in ps]
    options = {"betas": [(0.8, 0.999), (0.95, 0.999), (0.99, 0.9995)], "lr": 1e-2, "weight_decay": 0.1, "type": type_}
    optimizer = gap_hf.GapAdamW(ps, state_dtype="8bit", **options, **KERNELS[kernel])
    twin = ReferenceIn8Bits(twins, decoupled_weight_decay=True, **options)
    chosen = set()
    for _ in random_gradients(ps, 40):
        for p, q in zip(ps, twins, strict=True):
            p.grad = p.grad + 0.3 * p.detach()
            q.grad = p.grad.clone()
        optimizer.step()
        twin.step()
        choices = optimizer.param_groups[0]["last_choice"]
        assert choices == twin.param_groups[0]["last_choice"]
        chosen.update([choices] if type_ == "switch" else choices)
    assert len(chosen) > 1
    declared = optimizer.family.buffers(optimizer.param_groups[0])
    for p, q in zip(ps, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        found = widened(declared, optimizer.state[p])
        for j in range(3):
            different = (found[f"exp_avg_{j}"] - twin.state[q][f"m_{j}"]).abs() > 1e-6
            assert different.float().mean() < 0.01


@needs_fused
def test_kernels_have_the_same_codes():
    ps = {name: torch.zeros(40, 100).requires_grad_() for name in KERNELS}
    optimizers = {name: built(ps[name], **flags) for name, flags in KERNELS.items()}
    for _ in random_gradients([ps["loop"]], 5):
        for name, optimizer in optimizers.items():
            ps[name].grad = ps["loop"].grad.clone()
            optimizer.step()
    right = optimizers["loop"].state[ps["loop"]]
    for name, optimizer in optimizers.items():
        assert optimizer.param_groups[0]["last_choice"] == optimizers["loop"].param_groups[0]["last_choice"]
        for buffer in ("exp_avg_0", "exp_avg_1"):
            assert (optimizer.state[ps[name]][buffer] != right[buffer]).float().mean() < 2e-3


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mode", ["none", "same", "square"])
def test_soft_resets(kernel, mode):
    """All moments are scaled, those of a parameter without a gradient, too."""
    ps = [torch.ones(64, 64, requires_grad=True) for _ in range(2)]
    options = {"hysteresis_threshold": 1, "soft_reset": 0.5, "second_order_momentum_reset_mode": mode}
    optimizer = gap_hf.GapAdamW(ps, type="switch", state_dtype="8bit", **options, **KERNELS[kernel])
    declared = optimizer.family.buffers(optimizer.param_groups[0])
    for p in ps:
        p.grad = torch.ones_like(p)
    optimizer.step()
    codes = optimizer.state[ps[1]]["exp_avg_0"]
    codes[0, 0] = 128  # what a number becomes that is negative and nearly zero
    before = [widened(declared, optimizer.state[p])["exp_avg_0"] for p in ps]
    ps[1].grad = None
    optimizer.step()
    assert torch.equal(widened(declared, optimizer.state[ps[1]])["exp_avg_0"], before[1]), "no reset was due"
    ps[0].grad = torch.full_like(ps[0], -0.01)
    optimizer.step()
    assert optimizer.last_resets
    after = widened(declared, optimizer.state[ps[1]])
    torch.testing.assert_close(after["exp_avg_0"], 0.5 * before[1], rtol=0.04, atol=0)
    assert codes[0, 0] == 128, "the same in all kernels, and when it is saved as a number and read again"
    kept = {"none": 1, "same": 0.5, "square": 0.25}[mode]
    torch.testing.assert_close(after["exp_avg_sq_0"], torch.full((64, 64), 0.001 * kept))


def test_a_state_of_an_older_version_is_read():
    """Versions before 0.3.0 had torchao's format."""
    subclass = pytest.importorskip("torchao.optim.subclass_8bit").OptimState8bit
    p = torch.zeros(64, 128).requires_grad_()
    optimizer = built(p)
    for _ in random_gradients([p], 20):
        optimizer.step()
    saved = optimizer.state_dict()
    wide = widened(optimizer.family.buffers(optimizer.param_groups[0]), saved["state"][0])
    for name in ("exp_avg_0", "exp_avg_1"):
        saved["state"][0][name] = subclass.zeros(p.shape, block_size=256).copy_(wide[name])
    other = built(torch.zeros(64, 128).requires_grad_())
    other.load_state_dict(saved)
    (state,) = other.state.values()
    found = widened(other.family.buffers(other.param_groups[0]), state)
    for name in ("exp_avg_0", "exp_avg_1"):
        assert state[name].dtype == torch.uint8
        assert (found[name] - wide[name]).norm() < 0.05 * wide[name].norm()


def test_what_is_larger_than_any_code_is_told(caplog):
    p = torch.zeros(8, 8).requires_grad_()
    optimizer = gap_hf.GapAdamW([p], betas=BETAS)
    for _ in random_gradients([p], 3):
        optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["exp_avg_1"][0, :3] = 1e3
    other = gap_hf.GapAdamW([torch.zeros(8, 8).requires_grad_()], betas=BETAS, state_dtype="8bit")
    other.load_state_dict(saved)
    assert "3 elements of first moments, from a run with other betas, are larger than 8 bits hold" in caplog.text


def test_candidates_without_a_bound_are_refused():
    p = torch.zeros(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"needs beta1\^2 < beta2.*\(0\.99, 0\.95\), and 0\.99\^2 = 0\.9801; use"):
        gap_hf.GapAdamW([p], betas=[(0.8, 0.999), (0.99, 0.95)], state_dtype="8bit")


@pytest.mark.parametrize(
    ("cls", "options"), [(gap_hf.SGDM, {"momentum": [0.5, 0.9]}), (gap_hf.RFAdamW, {"batch_size": 4, "betas": BETAS})]
)
def test_other_optimizers_are_refused(cls, options):
    with pytest.raises(ValueError, match="'8bit' is for Adam and AdamW.*; use state_dtype='bfloat16'"):
        cls([torch.zeros(3, requires_grad=True)], type="switch", state_dtype="8bit", **options)
