"""Works and optimizers for the tests of the fused CUDA kernel, and what it is compared with."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from gap_hf.optim.arithmetic import eight_bit
from gap_hf.optim.families.adai import AdaiFamily, AdaiNumbers
from gap_hf.optim.families.adam import AdamFamily
from gap_hf.optim.families.adams import AdamsFamily, AdamsNumbers
from gap_hf.optim.families.common import places
from gap_hf.optim.families.moments import MomentNumbers
from gap_hf.optim.families.rf_rmsprop import RFRMSpropFamily, RFRMSpropNumbers
from gap_hf.optim.families.sgdm import SGDMFamily, SGDMNumbers
from gap_hf.optim.kernels import fused_cuda
from gap_hf.optim.kernels.foreach import Loop
from gap_hf.optim.kernels.fused_cuda import FusedCUDA
from gap_hf.optim.kernels.kernel import locate
from gap_hf.optim.work import Buffer, Relative, Work

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = FusedCUDA.why_not((torch.float32,) * 4) is None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not (HAS_TRITON and torch.cuda.is_available()), reason="no GPU here")

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16

ADAM = MomentNumbers(
    betas=(0.8, 0.99),
    betas2=(0.999,),
    first=(0, 1),
    second=(0, 0),
    gains=(1.0, 1.0),
    modulation=(1.0, 1.0),
    lr=0.1,
    eps=1e-8,
    soft_reset=0.7,
    exponents=(-3, -5),
)
SGDM = SGDMNumbers((0.9, 0.5), (0, 1), (1.0, 1.0), (1.0, 1.0), 0.1, soft_reset=0.7)
RMSPROP = RFRMSpropNumbers((0.9, 0.5), (0, 1), (1.0, 1.0), (1.0, 1.0), 0.1, 0.9, 4.0, 0.1, soft_reset=0.7)
Numbers = MomentNumbers | RFRMSpropNumbers | SGDMNumbers
FAMILIES: dict[Any, Any] = {
    AdaiNumbers: AdaiFamily(),
    AdamsNumbers: AdamsFamily(),
    MomentNumbers: AdamFamily(),
    RFRMSpropNumbers: RFRMSpropFamily(),
    SGDMNumbers: SGDMFamily(),
}


def candidates(numbers: Numbers, values: tuple[float, ...], second: tuple[int, ...] = ()) -> Numbers:
    """``numbers`` for K other candidates; the different beta2 are as many as ``second`` says."""
    ones = (1.0,) * len(values)
    kept = [j for j, value in enumerate(values) if value or (isinstance(numbers, SGDMNumbers) and not any(values))]
    numbers = numbers._replace(first=places(len(values), kept), gains=ones, modulation=ones)
    if not isinstance(numbers, MomentNumbers):
        return numbers._replace(momenta=values)
    betas2 = (0.999, 0.99, 0.95)[: max(second) + 1]
    exponents = [eight_bit.exponent(beta1, betas2[u]) for beta1, u in zip(values, second, strict=True)]
    return numbers._replace(betas=values, betas2=betas2, second=second, exponents=tuple(exponents))


def replaced(numbers: Numbers, **options: Any) -> Numbers:
    return numbers._replace(**options)


def kernel_of(work: Work) -> FusedCUDA:
    """The kernel of the work's family, ready to begin."""
    family = FAMILIES[type(work.numbers)]
    kernel = family.fused["cuda"](family)
    kernel.begin(work, locate(work))
    return kernel


def loop_of(work: Work) -> Loop:
    return Loop(FAMILIES[type(work.numbers)])


RULES: dict[str, Numbers] = {
    "adam-1": candidates(ADAM, (0.9,), (0,)),
    "adam-2": ADAM,
    "adam-3-distinct": candidates(ADAM, (0.5, 0.9, 0.99), (0, 1, 0)),
    "adam-5-distinct": candidates(ADAM, (0.0, 0.5, 0.8, 0.9, 0.99), (0, 1, 2, 0, 1)),
    "adam-decay": replaced(ADAM, decay=0.1, modulation=(1.0, 3.0)),
    "adam-l2": replaced(ADAM, l2=0.1, eps=1e-3),
    "adam-reset": replaced(ADAM, second_reset=0.49),
    "sgdm-1": candidates(SGDM, (0.9,)),
    "sgdm-3": candidates(SGDM, (0.0, 0.5, 0.99)),
    "sgdm-nesterov": replaced(SGDM, nesterov=True, l2=0.1, modulation=(1.0, 0.5)),
    "sgdm-dampening": replaced(SGDM, dampening=0.3),
    "adam-maximize": replaced(ADAM, maximize=True, l2=0.1, eps=1e-3),
    "sgdm-maximize": replaced(SGDM, maximize=True, nesterov=True, l2=0.1),
    # the moment of the candidate 0 is the gradient itself
    "adam-gradient": replaced(
        candidates(ADAM, (0.9, 0.0), (0, 1)), l2=0.1, eps=1e-3, maximize=True, modulation=(1.0, 3.0)
    ),
    "adam-gradients": replaced(candidates(ADAM, (0.0, 0.0), (0, 1)), decay=0.1, second_reset=0.7),
    "sgdm-gradient": replaced(
        candidates(SGDM, (0.0, 0.9)), l2=0.1, dampening=0.3, maximize=True, modulation=(1.0, 3.0)
    ),
    "sgdm-0": candidates(SGDM, (0.0,)),
    "rf_adamw": replaced(candidates(ADAM, (0.9, 0.0), (0, 1)), batch_size=4.0, eps=0.1, decay=0.1, maximize=True),
    "rf_rmsprop": replaced(RMSPROP, maximize=True, modulation=(1.0, 3.0)),
    "rf_rmsprop-gradient": replaced(candidates(RMSPROP, (0.9, 0.0, 0.5)), decay=0.1),
}
DTYPES = {  # of values and gradients, first moments, second moments
    "fp32": (F32, F32, F32),
    "bf16": (BF16, BF16, BF16),
    "fp16": (F16, F16, F16),
    "bf16-fp32": (BF16, F32, F32),
    "fp32-bf16": (F32, BF16, F32),
    "bf16-bf16": (BF16, BF16, F32),
}
STOCHASTIC = ("fp32-bf16", "bf16-bf16")
CASES = [(rule, "fp32") for rule in RULES]
CONSTANT_CASES = list(CASES)
CONSTANT_CASES += [(rule, d) for rule in ("adam-5-distinct", "sgdm-gradient") for d in list(DTYPES)[1:]]
IN_EACH_DTYPE = ("adam-2", "adam-3-distinct", "adam-5-distinct", "sgdm-nesterov", "sgdm-gradient")
CASES += [(rule, d) for rule in IN_EACH_DTYPE for d in list(DTYPES)[1:]]
IN_8_BITS = {"fp32-8bit": (F32, torch.uint8, F32), "bf16-8bit": (BF16, torch.uint8, F32)}
DTYPES |= IN_8_BITS
STOCHASTIC += tuple(IN_8_BITS)
CASES += [(rule, d) for rule in ("adam-2", "adam-3-distinct", "adam-5-distinct", "adam-reset") for d in IN_8_BITS]
CONSTANT_CASES += [("adam-5-distinct", d) for d in IN_8_BITS]
B = fused_cuda.BLOCK
SHAPES = [(3,), (0,), (B + 5,), (2, B // 2), ()]


def work_of(numbers: Numbers, dtypes: tuple[torch.dtype, ...], shapes: list[tuple[int, ...]], offset: int = 0) -> Work:
    """Fragments of ``shapes`` before their first step, ``offset`` elements from where memory was had."""
    generator = torch.Generator().manual_seed(0)

    def plain(values: Tensor, dtype: torch.dtype) -> Tensor:
        memory = torch.zeros(values.numel() + offset, dtype=dtype)
        memory[offset:] = values.flatten()
        return memory[offset:].view(values.shape)

    def zeros(dtype: torch.dtype) -> list[Tensor]:
        return [plain(torch.zeros(shape), dtype) for shape in shapes]

    values = [plain(torch.randn(shape, generator=generator), dtypes[0]) for shape in shapes]
    steps = [torch.zeros((), dtype=torch.float64) for _ in shapes]
    kept = [j for j, place in enumerate(numbers.first) if place is not None]
    declared = [Buffer(f"first_{j}", soft_reset=numbers.soft_reset) for j in kept]
    if isinstance(numbers, MomentNumbers):
        declared = [
            buffer._replace(relative=Relative(f"second_{numbers.second[j]}", numbers.exponents[j]))
            for j, buffer in zip(kept, declared, strict=True)
        ]
        declared += [
            Buffer(f"second_{u}", compact=False, soft_reset=numbers.second_reset) for u in range(len(numbers.betas2))
        ]
    elif isinstance(numbers, RFRMSpropNumbers):
        declared.append(Buffer("square", compact=False))
    buffers = [zeros(dtypes[1] if buffer.compact else dtypes[2]) for buffer in declared]
    return Work(numbers, declared, values, zeros(dtypes[0]), steps, buffers)


def new_gradients(work: Work, seed: int) -> None:
    """Gradients that have a direction, in the memory of the old ones."""
    generator = torch.Generator().manual_seed(seed)
    for g in work.grads:
        g.copy_(torch.randn(g.shape, generator=generator) + 0.5)


def columns(work: Work) -> list[list[Tensor]]:
    return [work.values, work.grads, *work.buffers]


def twin_of(work: Work) -> Work:
    """The same in float32, and bfloat16 only where it is rounded stochastically."""

    def wide(tensors: list[Tensor]) -> list[Tensor]:
        return [t.float().clone() for t in tensors]

    buffers = [
        [t.clone() for t in tensors] if buffer.compact and work.numbers.stochastic else wide(tensors)
        for buffer, tensors in zip(work.declared, work.buffers, strict=True)
    ]
    steps = [step.clone() for step in work.steps]
    return Work(work.numbers, work.declared, wide(work.values), wide(work.grads), steps, buffers, work.scored)


def copy_of(work: Work) -> Work:
    """The same elsewhere in memory."""

    def copies(tensors: list[Tensor]) -> list[Tensor]:
        return [t.clone() for t in tensors]

    steps, buffers = copies(work.steps), [copies(column) for column in work.buffers]
    return Work(work.numbers, work.declared, copies(work.values), copies(work.grads), steps, buffers, work.scored)


def true_sums(work: Work) -> Tensor:
    """The partial sums of the buffers as they are stored, in float64."""
    numbers, rows = work.numbers, []
    if isinstance(numbers, RFRMSpropNumbers):
        return true_sums_of_rmsprop(work)
    betas2 = numbers.betas2 if isinstance(numbers, MomentNumbers) else ()
    for i, p in enumerate(work.values):
        g = work.grads[i].double() * (-1 if numbers.maximize else 1) + numbers.l2 * p.double()
        r = []
        for beta2, v in zip(betas2, work.buffers[len(work.buffers) - len(betas2) :], strict=True):
            root = v[i].double()
            if numbers.batch_size is None:
                root = (root / (1 - beta2 ** work.steps[i].item())).sqrt()
            r.append(1 / (root + numbers.eps))
        weights = [r[u] for u in numbers.second] if betas2 else [torch.ones(())] * len(numbers.gains)
        gradient = g * (1 - numbers.dampening) if not betas2 and work.steps[i] != 1 else g
        moments = [gradient if place is None else work.buffers[place][i].double() for place in numbers.first]
        dots = [(g * w * m).sum() for w, m in zip(weights, moments, strict=True)]
        rows.append(torch.stack([*dots, *(x.sum() for x in r)]))
    return torch.stack(rows)


def true_sums_of_rmsprop(work: Work) -> Tensor:
    numbers, rows = work.numbers, []
    for i, p in enumerate(work.values):
        upward = work.grads[i].double() * (-1 if numbers.maximize else 1)
        denominator = work.buffers[-1][i].double() + numbers.eps
        d = upward / denominator + numbers.decay * p.double()
        moments = [d if place is None else work.buffers[place][i].double() for place in numbers.first]
        rows.append(torch.stack([*((d * denominator * m).sum() for m in moments), (1 / denominator).sum()]))
    return torch.stack(rows)


def same(actual: list[Tensor], expected: list[Tensor], what: str) -> None:
    """Equal but for the last bits in float32, and in the others but for where that changes the rounding."""
    for a, e in zip(actual, expected, strict=True):
        if a.dtype == torch.uint8:
            assert (a != e).sum() <= 1 + 0.002 * a.numel(), what
            assert not ((a & 127).int() - (e & 127).int()).abs().gt(1).any(), what
        elif a.dtype == F32:
            torch.testing.assert_close(a, e, rtol=2e-6, atol=5e-7, msg=lambda message: f"{what}: {message}")
        else:
            unit = torch.finfo(a.dtype).eps
            e = e.to(a.dtype)
            assert (a != e).sum() <= 1 + 0.002 * a.numel(), what
            torch.testing.assert_close(a.float(), e.float(), rtol=unit, atol=1e-6, msg=what)


def step_both(kernel: FusedCUDA, work: Work, t: int, mixes: bool = False) -> None:
    """One step of the kernel and of the loop from the same bits, compared after each pass."""
    new_gradients(work, t)
    kernel.begin(work, locate(work))
    twin, loop = twin_of(work), loop_of(work)
    N, K = len(work.values), len(work.numbers.gains)
    choices, resets = [(i + t) % K for i in range(N)], [(i + t) % 4 == 2 for i in range(N)]
    kernel.tick(work)
    loop.tick(twin)
    assert work.steps == twin.steps
    sums = kernel.observe(work, [])
    loop_sums = loop.observe(twin, [])
    assert (sums.shape, sums.dtype) == (loop_sums.shape, loop_sums.dtype)
    for actual, expected in zip(columns(work)[2:], columns(twin)[2:], strict=True):
        same(actual, expected, "moments")
        for a, e in zip(actual, expected, strict=True):
            e.copy_(a)
    in_8_bits = columns(work)[2][0].dtype == torch.uint8  # scored as they were before rounding
    if not in_8_bits:
        torch.testing.assert_close(sums, true_sums(work), rtol=2e-6, atol=1e-6)
    if in_8_bits or (columns(work)[-1][0].dtype == F32 and not work.numbers.stochastic):
        torch.testing.assert_close(sums, loop_sums, rtol=2e-6, atol=1e-6)
    if mixes:
        weights = weights_of(N, K)
        kernel.mix(work, [], weights, torch.tensor(resets))
        loop.mix(twin, [], weights.tolist(), resets)
    else:
        kernel.apply(work, [], torch.tensor(choices), torch.tensor(resets))
        loop.apply(twin, [], choices, resets)
    for actual, expected in zip(columns(work), columns(twin), strict=True):
        same(actual, expected, "after the step")


def weights_of(N: int, K: int) -> Tensor:
    """Weights that differ between fragments and between candidates."""
    raw = torch.tensor([[(2 * i + 3 * j) % (K + 1) + (j == 0) for j in range(K)] for i in range(N)])
    return raw.double() / raw.sum(dim=1, keepdim=True)


def step_constant_both(kernel: FusedCUDA, work: Work, t: int) -> None:
    """One step with constant weights: the bits of a step in two passes, and in float32 the loop's numbers."""
    new_gradients(work, t)
    work.scored = False
    kernel.begin(work, locate(work))
    twin, loop, passes = twin_of(work), loop_of(work), copy_of(work)
    K = len(work.numbers.gains)
    weights = weights_of(2, K)[1]
    kernel.tick(work)
    kernel.step_constant(work, tuple(weights.tolist()))
    loop.tick(twin)
    loop.step_constant(twin, tuple(weights.tolist()))
    exact, N = kernel_of(passes), len(work.values)
    exact.tick(passes)
    exact.observe(passes, [])
    exact.mix(passes, [], weights.expand(N, K), torch.zeros(N, dtype=torch.bool))
    assert work.steps == twin.steps
    for actual, as_in_two, expected in zip(columns(work), columns(passes), columns(twin), strict=True):
        assert all(map(torch.equal, actual, as_in_two))
        if all(column[0].dtype == F32 for column in columns(work)):
            same(actual, expected, "after the step")


def whole_step(work: Work) -> None:
    take(kernel_of(work), work)


def take(kernel: FusedCUDA, work: Work, type_: str = "switch") -> None:
    """A step that ``kernel`` has begun: a pick, or a mix with or without scores."""
    N, K = len(work.values), len(work.numbers.gains)
    kernel.tick(work)
    if type_ == "mix":
        kernel.step_constant(work, (1 / K,) * K)
        return
    kernel.observe(work, [])
    resets = torch.zeros(N, dtype=torch.bool)
    if type_ == "switch":
        kernel.apply(work, [], torch.zeros(N, dtype=torch.int64), resets)
    else:
        kernel.mix(work, [], torch.full((N, K), 1 / K, dtype=torch.float64), resets)
