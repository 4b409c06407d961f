"""A fused kernel proves itself before it is used: on small random tensors it must do what the loop does.

What a compiler made for this processor or this GPU may be wrong where nobody has run it before, and a wrong step looks
like bad luck in training. The check runs once per process. Where there is a cache directory, a file in it says what was
checked on this machine before: which code, versions, device and dtypes.
"""

import functools
import hashlib
import math
from contextlib import suppress
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from ... import __version__
from ..choice import Choice, average, choose, scores
from . import cache, fused_cpu, fused_cuda
from .build import processor
from .deal import address
from .foreach import Loop
from .fused_cpu import FusedCPU
from .work import Kernel, Rule, Work

SIZES = (4613, 3, 2048, 0)
"""Element counts: blocks and a rest, less than a vector register holds, one block of the CUDA kernel, none."""

MEANS = (1.0, -0.1, -0.1, 1.0)
"""Of the gradients at each step: while they are small and turned around, all scores of long memories are negative."""

THRESHOLD = 2
"""Of the hysteresis: a reset is due at the second of those steps."""

ROUNDING = 2e-6
"""How far float32 may be off for numbers of order 1: 32 of its units, because either side rounds a dozen times."""

J_EMA = 0.5

CPU, LOOP = torch.device("cpu"), Loop()

ADAM = (
    Rule("adam", (0.8, 0.99), (0.99,), (0, 0), (1.0, 0.9), (1.0, 1.5), 0.1, eps=0.1, decay=0.3, soft_reset=0.7),
    Rule(
        family="adam",
        betas=(0.4, 0.9, 0.9),
        betas2=(0.99, 0.95),
        second=(0, 1, 1),
        gains=(0.1, 0.8, 0.8 + 2e-7),  # the last two tie
        modulation=(1.0, 0.5, 1.5),
        lr=0.1,
        eps=0.1,
        l2=0.2,
        soft_reset=0.7,
        second_reset=0.49,
        maximize=True,
    ),
)
SGDM = (
    Rule("sgdm", (0.9, 0.7), (), (), (1.0, 0.8), (1.0, 0.5), 0.1, l2=0.2, nesterov=True, soft_reset=0.7, maximize=True),
    Rule("sgdm", (0.0, 0.5, 0.99), (), (), (1.0, 0.7, 0.4), (1.0, 0.5, 1.5), 0.1, dampening=0.3, soft_reset=0.7),
)


class Disagreement(Exception):
    """What a kernel does otherwise than the loop."""


# ---------------------------------------------------------------- the result


def why_not(kernel: type[Kernel], device_type: str, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Why ``kernel`` is not to be trusted with ``dtypes``, or None if it agrees with the loop.

    Args:
        kernel: a fused kernel.
        device_type: where it works.
        dtypes: of value, gradient, first and (for Adam) second moments.

    Raises:
        RuntimeError: a CUDA graph is being captured.
    """
    if device_type == "cuda":
        if not torch.cuda.is_available():  # then there is nothing that it could do, either
            return None
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a CUDA graph can capture an optimizer step only after an ordinary step with the same parameters, "
                "which compiles and checks the kernels; take one before the capture"
            )
    return result(kernel, torch.device(device_type), dtypes, fingerprint(device_type, dtypes))


@functools.cache
def result(kernel: type[Kernel], device: torch.device, dtypes: tuple[torch.dtype, ...], key: str) -> str | None:
    """``why_not``; nothing is checked if it was passed under this ``key`` before."""
    if was_passed(key):
        return None
    try:
        check(kernel(), device, dtypes)
    except Disagreement as error:
        return f"it disagrees with the loop on small random tensors: {error}. Please report that"
    except Exception as error:  # what compilers and drivers raise has no class in common
        return f"its check on small random tensors failed: {type(error).__name__}: {str(error).strip()[:1000]}"
    note_passed(key)
    return None


def fingerprint(device_type: str, dtypes: tuple[torch.dtype, ...]) -> str:
    """A hash of all that the result depends on."""
    about = [__version__, torch.__version__, *map(str, dtypes)]
    if device_type == "cpu":
        about += [processor(), fused_cpu.load().checksum]
    else:
        about += [fused_cuda.load().triton.__version__, torch.cuda.get_device_name(), str(torch.version.cuda)]
    code = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"\0".join([*map(str.encode, about), *code])).hexdigest()[:16]


def was_passed(key: str) -> bool:
    """Whether the cache directory says so."""
    try:
        with cache.reading(cache.directory() / f"agrees-{key}"):
            return True
    except OSError:
        return False


def note_passed(key: str) -> None:
    """Let other processes know, if there is a cache directory."""
    with suppress(OSError):
        cache.write(cache.directory() / f"agrees-{key}", b"This fused kernel agrees with the loop.\n", 0o400)


# ---------------------------------------------------------------- the check


def check(kernel: Kernel, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> None:
    """Step by ``kernel`` and by the loop, from the same bits at each step.

    Raises:
        Disagreement: they differ by more than rounding.
    """
    for rule in rules(dtypes):
        check_passes(kernel, rule, device, dtypes)
        if isinstance(kernel, FusedCPU):
            check_step(kernel, rule, dtypes)
            check_step_for_all(kernel, rule, dtypes)


def rules(dtypes: tuple[torch.dtype, ...]) -> tuple[Rule, Rule]:
    """Those of the family that ``dtypes`` belong to; the second rounds first moments stochastically if it can."""
    plain, other = ADAM if len(dtypes) == 4 else SGDM
    if dtypes[2] == torch.bfloat16:  # an L2 term would have another last bit, and so another noise
        other = other._replace(stochastic=True, l2=0.0)
    return plain, other


def check_passes(kernel: Kernel, rule: Rule, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> None:
    """Each pass, with choices and resets of every kind."""
    work, N, K = start(rule, device, dtypes), len(SIZES), len(rule.betas)
    for t in range(2):
        twin = renewed(work, t)
        kernel.tick(work)
        LOOP.tick(twin)
        compare("a count of steps", work.steps, twin.steps)
        sums, expected = kernel.observe(work).cpu(), LOOP.observe(twin)
        compare_moments(work, twin)
        compare("a sum", per_element(sums), per_element(expected), extra=coarseness(dtypes))
        for exact, stored in zip(chain(*twin.first, *twin.second), chain(*work.first, *work.second), strict=True):
            exact.copy_(stored)
        choices, resets = [(i + t) % K for i in range(N)], [(i + 2 * t) % 3 == 2 for i in range(N)]
        if kernel.on_device:
            kernel.apply(work, torch.tensor(choices, device=device), torch.tensor(resets, device=device))
        else:
            kernel.apply(work, choices, resets)
        LOOP.apply(twin, choices, resets)
        compare("a new value", work.values, twin.values)
        compare_moments(work, twin)


def check_step(kernel: FusedCPU, rule: Rule, dtypes: tuple[torch.dtype, ...]) -> None:
    """All in one call, with a choice for each fragment."""
    work, extra = start(rule, CPU, dtypes), 4 * coarseness(dtypes)
    choice, negative_steps = (torch.zeros(len(SIZES), dtype=torch.int64, device=CPU) for _ in range(2))
    for t in range(len(MEANS)):
        twin = renewed(work, t)
        kernel.tick(work)
        LOOP.tick(twin)
        new, counted = choice.clone(), negative_steps.clone()
        reset, sums = kernel.step(work, THRESHOLD, new, counted)
        compare("a sum", per_element(sums), per_element(LOOP.observe(twin)), extra)
        J = scores(rule, sums, numel())
        expected = choose(J, J, J.isfinite().all(dim=1), choice, negative_steps, THRESHOLD)
        compare_choices(Choice(new, counted, reset), expected)
        LOOP.apply(twin, new.tolist(), reset.tolist())
        compare("a new value", work.values, twin.values, extra)
        compare_moments(work, twin, extra)
        choice, negative_steps = new, counted


def check_step_for_all(kernel: FusedCPU, rule: Rule, dtypes: tuple[torch.dtype, ...]) -> None:
    """All in one call, with one choice for all."""
    work, extra, N = start(rule, CPU, dtypes), 4 * coarseness(dtypes), len(SIZES)
    choice, negative_steps = (torch.zeros((), dtype=torch.int64, device=CPU) for _ in range(2))
    J_bar = torch.zeros(len(rule.betas), dtype=torch.float64, device=CPU)
    for t in range(len(MEANS)):
        twin = renewed(work, t)
        kernel.tick(work)
        LOOP.tick(twin)
        new, counted, averaged = choice.clone(), negative_steps.clone(), J_bar.clone()
        J, reset = kernel.step_for_all(work, THRESHOLD, J_EMA, new, counted, averaged)
        loops = scores(rule, LOOP.observe(twin), numel()).sum(dim=0)
        compare("a score", [J / sum(SIZES)], [loops / sum(SIZES)], extra)
        finite = J.isfinite().all()
        compare("the average of a score", [averaged], [average(J, finite, J_bar, J_EMA)])
        compare_choices(Choice(new, counted, reset), choose(J, averaged, finite, choice, negative_steps, THRESHOLD))
        LOOP.apply(twin, [int(new)] * N, [bool(reset)] * N)
        compare("a new value", work.values, twin.values, extra)
        compare_moments(work, twin, extra)
        choice, negative_steps, J_bar = new, counted, averaged


# ---------------------------------------------------------------- works


def start(rule: Rule, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> Work:
    """Fragments before their first step."""

    def column(dtype: torch.dtype) -> list[Tensor]:
        # the later half does not begin at a multiple of 16 bytes
        return [torch.zeros(n + i // 2, dtype=dtype, device=device)[i // 2 :] for i, n in enumerate(SIZES)]

    work = Work(
        rule,
        values=column(dtypes[0]),
        grads=column(dtypes[1]),
        steps=[torch.zeros((), dtype=torch.float64, device=device) for _ in SIZES],
        first=[column(dtypes[2]) for _ in rule.betas],
        second=[column(dtypes[3]) for _ in rule.betas2],
    )
    generator = torch.Generator().manual_seed(0)
    for value in work.values:
        value.copy_(0.5 * normal(value.numel(), generator))
    address(work)
    return work


def renewed(work: Work, t: int) -> Work:
    """Put the gradients of step ``t`` into ``work``; its twin for the loop.

    The twin is on the CPU and in float32, but for first moments that are rounded stochastically.
    """
    work.prepared = None
    generator = torch.Generator().manual_seed(1 + t)
    for grad in work.grads:
        mean = torch.linspace(1, 3, grad.numel(), dtype=torch.float32, device=CPU)
        grad.copy_(MEANS[t] * mean + 0.1 * normal(grad.numel(), generator))
    if t == len(MEANS) - 1:
        work.grads[1][0] = math.nan

    def copies(columns: list[list[Tensor]], dtype: torch.dtype | None = torch.float32) -> list[list[Tensor]]:
        return [[t.to(CPU, dtype, copy=True) for t in column] for column in columns]

    (values, grads), (steps,) = copies([work.values, work.grads]), copies([work.steps], None)
    first = copies(work.first, None if work.rule.stochastic else torch.float32)
    return Work(work.rule, values, grads, steps, first, copies(work.second))


def normal(n: int, generator: torch.Generator) -> Tensor:
    """``n`` normal numbers, whatever the default dtype and device are; torch's own generator is left alone."""
    return torch.randn(n, generator=generator, dtype=torch.float32, device=CPU)


def numel() -> Tensor:
    """The element counts, as scores take them."""
    return torch.tensor(SIZES, dtype=torch.float64, device=CPU)


def per_element(sums: Tensor) -> list[Tensor]:
    """Sums as means, which are of order 1."""
    return [sums / numel().clamp(min=1).unsqueeze(1)]


# ---------------------------------------------------------------- comparisons


def coarseness(dtypes: tuple[torch.dtype, ...]) -> float:
    """By how much, relatively, storing in the coarsest of ``dtypes`` changes a number."""
    return max(torch.finfo(dtype).eps / 2 for dtype in dtypes)


def compare(what: str, actual: list[Tensor], expected: list[Tensor], extra: float = 0.0) -> None:
    """Raise Disagreement where a number is off by more than rounding.

    Args:
        what: they are.
        actual: the kernel's, all of one dtype, rounded to that but otherwise as good as float32.
        expected: the loop's, in float32 or wider; or of the same dtype, and then rounded by the same noise.
        extra: allowed beyond that, for numbers of order 1.
    """
    a, e = (torch.cat([t.to(CPU).flatten() for t in tensors]) for tensors in (actual, expected))
    mine, right = a.double(), e.double()
    unit = torch.finfo(a.dtype).eps / 2
    if e.dtype == a.dtype == torch.bfloat16:
        unit *= 2
        if (flips := int((mine != right).sum() - right.isnan().sum())) > 1 + 0.001 * a.numel():
            raise Disagreement(f"{flips} of {a.numel()} numbers are rounded otherwise ({what})")
    size = right.abs()
    near = (mine - right).abs() <= ROUNDING * (1 + size) + unit * size + extra * (1 + size)
    wrong = ~(near | (mine == right) | (mine.isnan() & right.isnan()))
    if wrong.any():
        k = int(wrong.int().argmax())
        raise Disagreement(f"{what} is {mine[k]:.7g}, not {right[k]:.7g}")


def compare_moments(work: Work, twin: Work, extra: float = 0.0) -> None:
    """Raise Disagreement where buffers differ."""
    compare("a first moment", list(chain(*work.first)), list(chain(*twin.first)), extra)
    if work.second:
        compare("a second moment", list(chain(*work.second)), list(chain(*twin.second)), extra)


def compare_choices(actual: Choice, expected: Choice) -> None:
    """Raise Disagreement where they differ."""
    for name, mine, right in zip(Choice._fields, actual, expected, strict=True):
        if not torch.equal(mine, right):
            raise Disagreement(f"{name} is {mine.tolist()}, not {right.tolist()}")
