"""Options that make the state smaller."""

import copy

import pytest
import torch

import gap_hf
from gap_hf.optim.arithmetic.rounding import Draw, hash32, noise_for, round_stochastically
from gap_hf.optim.state import only_makes_state

from .twins import KERNELS, byte_model, needs_fused, random_gradients, train_bytes

BETAS = [(0.8, 0.999), (0.99, 0.999)]


def build(params, **options):
    return gap_hf.GapAdamW(params, betas=BETAS, type="switch_parameter_wise", **options)


def bytes_per_parameter(optimizer) -> float:
    """Of all state but the counts of steps."""
    stored = 0
    for state in optimizer.state.values():
        for name, buffer in state.items():
            if name != "step":
                stored += buffer.nbytes
    return stored / sum(p.numel() for p in optimizer.state)


@pytest.mark.parametrize(
    ("state_dtype", "dtype", "expected"),
    [
        (None, torch.float32, 12),
        ("float32", torch.float32, 12),
        ("bfloat16", torch.float32, 8),  # torch's AdamW has 8, too
        ("8bit", torch.float32, 6),
        (None, torch.bfloat16, 6),
        ("float32", torch.bfloat16, 12),
        ("bfloat16", torch.bfloat16, 8),
        ("8bit", torch.bfloat16, 6),
    ],
)
def test_bytes(state_dtype, dtype, expected):
    p = torch.randn(64, 256).to(dtype).requires_grad_()
    optimizer = build([p], state_dtype=state_dtype)
    for _ in random_gradients([p], 2):
        optimizer.step()
    assert bytes_per_parameter(optimizer) == expected


# ---------------------------------------------------------------- stochastic rounding
def test_rounding_is_to_a_neighbour_and_unbiased():
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(200_000, generator=generator)
    grad, old = torch.randn(200_000, generator=generator), torch.randn(200_000, generator=generator).bfloat16()
    rounded = round_stochastically(exact, grad, old, Draw(3, 1))
    below = (exact.view(torch.int32) & -65536).view(torch.float32)
    above = ((exact.view(torch.int32) & -65536) + 65536).view(torch.float32)
    assert ((rounded == below) | (rounded == above)).all()
    up = (rounded.float() == above) & (below != exact)
    share = (exact - below) / (above - below)
    for low in torch.arange(0, 1, 0.1):
        mine = (share >= low) & (share < low + 0.1)
        assert up[mine].float().mean().item() == pytest.approx(share[mine].mean().item(), abs=0.02)


def test_the_noise_is_another_in_each_step_candidate_and_gradient():
    grads, old = torch.full((1000,), 0.5), torch.zeros(1000).bfloat16()
    exact = torch.full((1000,), 1 + 2**-8)  # halfway between two of bfloat16
    ups = [
        round_stochastically(exact[:1], grads[:1], old[:1], Draw(t, j)).item() > 1 for t in range(500) for j in (0, 1)
    ]
    assert 400 < sum(ups) < 600
    varied = grads + torch.arange(1000) * 1e-6
    assert 400 < (round_stochastically(exact, varied, old, Draw(1, 0)) > 1).sum() < 600


@pytest.mark.parametrize("bits", [16, 19])
@pytest.mark.parametrize("candidate", range(4))
def test_the_noise_is_uniform_whatever_is_rounded(candidate, bits):
    """Over many steps, for one gradient and one old moment; over many gradients; and over many old moments."""
    one, many = torch.full((1,), 0.25), torch.arange(4096, dtype=torch.int32)
    steps = torch.cat([noise_for(one, many[7:8], Draw(t, candidate), bits) for t in range(4096)])
    random = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    grads = noise_for(random, many * 0 + 7, Draw(3, candidate), bits)
    olds = noise_for(one.expand(4096).contiguous(), many, Draw(3, candidate), bits)
    for noise in (steps, grads, olds):
        counts = torch.histc(noise.float(), 16, 0, 1 << bits)
        assert ((counts - 256) ** 2 / 256).sum() < 45  # chi squared with 15 degrees of freedom: 1 in 10,000


@pytest.mark.parametrize("bits", [16, 19])
def test_two_candidates_are_rounded_independently(bits):
    grads, old = torch.randn(200_000, generator=torch.Generator().manual_seed(0)), torch.zeros(200_000).int()
    one, other = (noise_for(grads, old, Draw(5, j), bits).double() for j in (0, 1))
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.01


def test_values_that_are_not_finite_stay():
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0])
    rounded = round_stochastically(odd, torch.ones(5), torch.zeros(5).bfloat16(), Draw(1, 0)).float()
    torch.testing.assert_close(rounded, odd, rtol=0, atol=0, equal_nan=True)


def test_the_hash_is_lowbias32():
    def scalar(x):
        x ^= x >> 16
        x = x * 0x7FEB352D & 0xFFFFFFFF
        x ^= x >> 15
        x = x * 0x846CA68B & 0xFFFFFFFF
        return x ^ x >> 16

    values = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 123456789]
    signed = torch.tensor([v - (1 << 32) if v >> 31 else v for v in values], dtype=torch.int32)
    assert [h & 0xFFFFFFFF for h in hash32(signed).tolist()] == [scalar(v) for v in values]


def test_a_slow_average_arrives():
    """beta 0.99 towards a constant: nearest rounding would stop at a distance of half a step over 1 - beta."""
    for kernel in KERNELS.values():
        p = torch.zeros(2000).requires_grad_()
        optimizer = gap_hf.SGDM(
            [p], lr=0.0, momentum=[0.0, 0.99], dampening=0.99, type="switch", state_dtype="bfloat16", **kernel
        )
        generator = torch.Generator().manual_seed(0)
        for _ in range(1500):
            p.grad = 1 + 0.01 * torch.randn(2000, generator=generator)
            optimizer.step()
        # a first step of 1, then 0.99 b + 0.01 g
        assert optimizer.state[p]["momentum_buffer_1"].float().mean() == pytest.approx(1.0, abs=2e-3)


@needs_fused
@pytest.mark.parametrize("family", ["adam", "sgdm"])
def test_kernels_round_alike(family):
    """The noise comes from the inputs: all kernels draw the same, and a last bit decides differently now and then."""
    cls, options = (gap_hf.GapAdamW, {"betas": BETAS}) if family == "adam" else (gap_hf.SGDM, {"momentum": [0.5, 0.9]})
    sets = {name: [torch.zeros(40, 100).requires_grad_()] for name in KERNELS}
    optimizers = {
        name: cls(sets[name], type="switch", state_dtype="bfloat16", **options, **flags)
        for name, flags in KERNELS.items()
    }
    first = sets["fused"]
    for _ in random_gradients(first, 5):
        for name, optimizer in optimizers.items():
            sets[name][0].grad = first[0].grad.clone()
            optimizer.step()
    buffers = [
        [b for n, b in o.state[sets[name][0]].items() if b.dtype == torch.bfloat16] for name, o in optimizers.items()
    ]
    for others in buffers[1:]:
        for a, b in zip(buffers[0], others, strict=True):
            assert (a != b).float().mean() < 2e-3


# ---------------------------------------------------------------- as part of the optimizer
@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "8bit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_is_bitwise(state_dtype, dtype, tmp_path):

    def start():
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in ((64, 128), (5,))]

    straight, broken = start(), start()
    optimizer = build(straight, state_dtype=state_dtype)
    for t, _ in enumerate(random_gradients(straight, 12)):
        optimizer.step()
        if t == 5:
            torch.save(
                {"optimizer": optimizer.state_dict(), "model": [p.detach().clone() for p in straight]},
                tmp_path / "saved.pt",
            )
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    resumed = build(broken, state_dtype=state_dtype)
    resumed.load_state_dict(saved["optimizer"])
    for p, value in zip(broken, saved["model"], strict=True):
        p.data.copy_(value)
    for t, _ in enumerate(random_gradients(broken, 12)):
        if t > 5:
            resumed.step()
    assert all(torch.equal(p, q) for p, q in zip(straight, broken, strict=True))
    for p, q in zip(straight, broken, strict=True):
        for name, buffer in optimizer.state[p].items():
            other = resumed.state[q][name]
            assert buffer.dtype == other.dtype
            assert torch.equal(buffer, other), name


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
def test_training_is_about_the_same(state_dtype):
    """On a real language model: the loss to a per cent or two, most choices alike."""
    results = []
    for option in (None, state_dtype):
        model = byte_model()
        optimizer = gap_hf.GapAdamW(
            model.parameters(), lr=3e-3, betas=BETAS, type="switch_parameter_wise", state_dtype=option
        )
        losses, choices = [], []
        for loss in train_bytes(model, 150):
            optimizer.step()
            losses.append(loss)
            choices += copy.copy(optimizer.param_groups[0]["last_choice"])
        results.append((sum(losses[-30:]) / 30, choices))
    (loss, choices), (small_loss, small_choices) = results
    assert small_loss == pytest.approx(loss, rel=0.02)
    assert sum(a == b for a, b in zip(choices, small_choices, strict=True)) / len(choices) > 0.9


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
def test_consolidated(state_dtype):
    model = torch.nn.Linear(128, 64)
    optimizer = build(model.parameters(), state_dtype=state_dtype)
    for _ in random_gradients(list(model.parameters()), 3):
        optimizer.step()
    gathered = gap_hf.consolidated_state_dict(optimizer, model)["state"]["weight"]["exp_avg_0"]
    stored = optimizer.state[model.weight]["exp_avg_0"]
    assert gathered.dtype == (torch.uint8 if state_dtype == "8bit" else torch.bfloat16)
    assert torch.equal(gathered, stored)


def test_bad_options():
    p = torch.zeros(3, requires_grad=True)
    with pytest.raises(ValueError, match="state_dtype='int8' is out of range; expected one of None, 'float32'"):
        build([p], state_dtype="int8")
    with pytest.raises(ValueError, match="state_dtype='bfloat16' is not for type='default'"):
        gap_hf.Adam([p], state_dtype="bfloat16")


@pytest.mark.parametrize(
    ("cls", "options"), [(gap_hf.GapAdamW, {}), (gap_hf.SGDM, {"momentum": [0.5, 0.9], "type": "switch"})]
)
@pytest.mark.parametrize("foreach", [True, False])
def test_bfloat16_state_of_float64_parameters(cls, options, foreach):
    """It is rounded from float32, as that of float32 parameters is."""
    ends = []
    for dtype in (torch.float64, torch.float32):
        p = torch.ones(30, 4, dtype=dtype, requires_grad=True)
        optimizer = cls([p], state_dtype="bfloat16", foreach=foreach, **options)
        generator = torch.Generator().manual_seed(0)
        for _ in range(5):
            p.grad = torch.randn(30, 4, generator=generator).to(dtype)
            optimizer.step()
        ends.append((optimizer.param_groups[0]["last_choice"], p.detach().float()))
    assert ends[0][0] == ends[1][0]
    torch.testing.assert_close(ends[0][1], ends[1][1], rtol=1e-5, atol=1e-6)


class TestWhetherACallOnlyMakesState:
    """As torch's checkpoints ask for it, with zero gradients and a learning rate of zero."""

    def only_makes_state(self, lr) -> bool:
        p = torch.ones(3, requires_grad=True)
        p.grad = torch.zeros(3)
        optimizer = build([p])
        optimizer.param_groups[0]["lr"] = lr
        layout = optimizer.layout()
        parts = layout.receive(optimizer.param_groups, by_parameter=False)
        return only_makes_state(layout, parts, optimizer.state, optimizer.family)

    def test_it_does_at_a_learning_rate_of_zero(self):
        assert self.only_makes_state(0.0)
        assert self.only_makes_state(torch.tensor(0.0))
        assert not self.only_makes_state(torch.tensor(0.1))

    def test_a_learning_rate_on_another_device_is_not_read(self):
        """Reading one on a GPU would wait for the GPU; reading one on meta is an error."""
        assert not self.only_makes_state(torch.zeros((), device="meta"))
