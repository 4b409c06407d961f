"""A fused kernel proves itself before it is used: on small random tensors it must do what the loop does.

Code compiled for this processor or GPU may be wrong, since nobody may have run it before, and wrong steps look like bad
luck in training. The check runs once per process. If there is a cache directory, a file in it says what was checked on
this machine before: which code, versions, device and dtypes.
"""

import functools
import hashlib
import math
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import __version__
from ..arithmetic.boxes import Place
from ..choice import Choice, average, choose
from ..family import Family
from ..rules.mix import BY_SCORE
from ..rules.rule import Rule
from ..work import Buffer, Work
from . import build, cache, fused_cuda
from .comparing import Disagreement, coarseness, compare, compare_buffers, compare_choices
from .foreach import Loop
from .kernel import ChoosingKernel, Kernel, locate

SIZES = (4613, 3, 2048, 0)
"""Element counts: blocks and a rest, less than a vector register holds, one block of the CUDA kernel, none."""

MEANS = (1.0, -0.1, -0.1, 1.0)
"""The gradients' mean at each step: while it is small and negative, all scores of long memories are negative."""

THRESHOLD = 2
"""The hysteresis threshold: a reset is due at the second of those steps."""

J_EMA = 0.1

CPU = torch.device("cpu")


# ---------------------------------------------------------------- the result


def why_not(family: Family, kernel: type[Kernel], device_type: str, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Return the reason why ``kernel`` can't be trusted with ``dtypes``, or None if it agrees with the loop.

    Args:
        family: the family whose arithmetic the kernel does.
        kernel: one of the family's fused kernels.
        device_type: the type of device that it works on.
        dtypes: the dtypes, listed as for ``pick``.

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
    return result(family, kernel, torch.device(device_type), dtypes, fingerprint(family, device_type, dtypes))


@functools.cache
def result(
    family: Family, kernel: type[Kernel], device: torch.device, dtypes: tuple[torch.dtype, ...], key: str
) -> str | None:
    """Return what ``why_not`` does, without a check if one was passed under this ``key`` before."""
    if was_passed(key):
        return None
    try:
        check(kernel(family), device, dtypes)
    except Disagreement as error:
        return f"it disagrees with the loop on small random tensors: {error}. Please report that"
    except Exception as error:  # what compilers and drivers raise has no class in common
        return f"its check on small random tensors failed: {type(error).__name__}: {str(error).strip()[:1000]}"
    note_passed(key)
    return None


def fingerprint(family: Family, device_type: str, dtypes: tuple[torch.dtype, ...]) -> str:
    """Hash everything that the result of a check depends on."""
    about = [__version__, torch.__version__, family.name, *map(str, dtypes)]
    if device_type == "cpu":
        about += [build.processor(), build.load().checksum]
    else:
        about += [fused_cuda.load().triton.__version__, torch.cuda.get_device_name(), str(torch.version.cuda)]
    code = [path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py"))]
    return hashlib.sha256(b"\0".join([*map(str.encode, about), *code])).hexdigest()[:16]


def was_passed(key: str) -> bool:
    """Whether the cache directory says that the check was passed."""
    try:
        with cache.reading(cache.directory() / f"agrees-{key}"):
            return True
    except OSError:
        return False


def note_passed(key: str) -> None:
    """Let other processes know that the check was passed, if there is a cache directory."""
    with suppress(OSError):
        cache.write(cache.directory() / f"agrees-{key}", b"This fused kernel agrees with the loop.\n", 0o400)


# ---------------------------------------------------------------- the check


def check(kernel: Kernel, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> None:
    """Step with ``kernel`` and with the loop, from the same bits at each step, with each of the family's examples.

    Raises:
        Disagreement: they differ by more than rounding.
    """
    if not kernel.family.examples:
        raise Disagreement(f"the {kernel.family.name} family has no examples to compare them with")
    for example, options in enumerate(kernel.family.examples):
        check_passes(kernel, start(kernel.family, example, device, dtypes), dtypes)
        check_constant(kernel, start(kernel.family, example, device, dtypes), dtypes)
        if isinstance(kernel, ChoosingKernel) and not kernel.family.rounds:
            for rule in kernel.rules:
                made = rule({**options, "weights": BY_SCORE}, kernel.family.decays(options))
                check_step(kernel, made, start(kernel.family, example, CPU, dtypes), dtypes)
                check_step_for_all(kernel, made, start(kernel.family, example, CPU, dtypes), dtypes)


def check_passes(kernel: Kernel, work: Work, dtypes: tuple[torch.dtype, ...]) -> None:
    """Check each pass, with choices, weights and resets of every kind."""
    loop, device, N, K = Loop(kernel.family), work.values[0].device, len(SIZES), len(work.numbers.gains)
    for t in range(3):
        twin = renewed(kernel, work, t)
        kernel.tick(work)
        loop.tick(twin)
        compare("a count of steps", work.steps, twin.steps)
        answers, there = check_rounds(kernel, work, loop, twin, dtypes)
        sums, expected = kernel.observe(work, there).cpu(), loop.observe(twin, answers)
        compare_buffers(work, twin)
        compare("a sum", per_element(sums), per_element(expected), extra=coarseness(dtypes))
        for exact, stored in zip(chain(*twin.buffers), chain(*work.buffers), strict=True):
            exact.copy_(stored)
        choices, resets = [(i + t) % K for i in range(N)], [(i + 2 * t) % 3 == 2 for i in range(N)]
        weights = [[(1.0 + (i + j) % K) / (K * (K + 1) / 2) for j in range(K)] for i in range(N)]
        if t == 2:
            kernel.mix(work, there, *taken_by(kernel, device, weights, resets))
            loop.mix(twin, answers, weights, resets)
        else:
            kernel.apply(work, there, *taken_by(kernel, device, choices, resets))
            loop.apply(twin, answers, choices, resets)
        compare("a new value", work.values, twin.values)
        compare_buffers(work, twin)


def taken_by(kernel: Kernel, device: torch.device, decided: list[Any], resets: list[bool]) -> tuple[Any, Any]:
    """Return choices or weights, and resets, in the form in which ``kernel`` takes them."""
    if not kernel.on_device:
        return decided, resets
    dtype = torch.float64 if isinstance(decided[0], list) else torch.int64
    return torch.tensor(decided, dtype=dtype, device=device), torch.tensor(resets, device=device)


def check_rounds(
    kernel: Kernel, work: Work, loop: Loop, twin: Work, dtypes: tuple[torch.dtype, ...]
) -> tuple[list[Any], list[Any]]:
    """Take the rounds before the scores with both; return the loop's answers to them, here and where ``work`` is."""
    answers: list[Any] = []
    there: list[Any] = []
    for reduction in kernel.family.rounds:
        sums, expected = kernel.observe(work, there), loop.observe(twin, answers)
        if reduction.over == "vectors":
            compare("an element of a vector", list(sums), list(expected), extra=coarseness(dtypes))
        else:
            compare("a sum", per_element(sums.cpu()), per_element(expected), extra=coarseness(dtypes))
        answers.append(expected.sum(dim=0) if reduction.over == "model" else expected)
        there.append(moved(answers[-1], work.values[0].device))
    return answers, there


def moved(answer: Any, device: torch.device) -> Any:
    """An answer, or a list of vectors, on ``device``."""
    return [vector.to(device) for vector in answer] if isinstance(answer, list) else answer.to(device)


def check_constant(kernel: Kernel, work: Work, dtypes: tuple[torch.dtype, ...]) -> None:
    """Check the whole step with constant weights."""
    loop, K = Loop(kernel.family), len(work.numbers.gains)
    weights = tuple((j + 1) / (K * (K + 1) / 2) for j in range(K))
    for t in range(2):
        work.scored = False
        twin = renewed(kernel, work, t)
        kernel.tick(work)
        loop.tick(twin)
        if kernel.family.rounds:
            answers, there = check_rounds(kernel, work, loop, twin, dtypes)
            everywhere = [list(weights)] * len(SIZES)
            for some, both, told in ((kernel, work, there), (loop, twin, answers)):
                some.observe(both, told)
                decided = taken_by(some, both.values[0].device, everywhere, [False] * len(SIZES))
                some.mix(both, told, *decided)
        else:
            kernel.step_constant(work, weights)
            loop.step_constant(twin, weights)
        compare_buffers(work, twin)
        compare("a new value", work.values, twin.values, 4 * coarseness(dtypes))


def check_step(kernel: ChoosingKernel, rule: Rule, work: Work, dtypes: tuple[torch.dtype, ...]) -> None:
    """Check the whole step in one call, with a choice for each fragment."""
    loop, extra, N = Loop(kernel.family), 4 * coarseness(dtypes), len(SIZES)
    kept = {key: torch.stack([value] * N) for key, value in begun(rule).items()}
    number = torch.arange(N, device=CPU)
    for t in range(len(MEANS)):
        twin = renewed(kernel, work, t)
        kernel.tick(work)
        loop.tick(twin)
        new = {key: value.clone() for key, value in kept.items()}
        reset, sums = kernel.step(rule, work, THRESHOLD, new)
        compare("a sum", per_element(sums), per_element(loop.observe(twin, [])), extra)
        J = kernel.family.scores(work.numbers, sums, numel())
        compare_choices(Choice(new, reset), choose(rule, J, J, J.isfinite().all(dim=1), kept, number, THRESHOLD))
        apply(loop, twin, new, reset)
        compare("a new value", work.values, twin.values, extra)
        compare_buffers(work, twin, extra)
        kept = new


def check_step_for_all(kernel: ChoosingKernel, rule: Rule, work: Work, dtypes: tuple[torch.dtype, ...]) -> None:
    """Check the whole step in one call, with one choice for all."""
    loop, extra, N = Loop(kernel.family), 4 * coarseness(dtypes), len(SIZES)
    kept = begun(rule) | {"J_bar": torch.zeros(len(work.numbers.gains), dtype=torch.float64, device=CPU)}
    number = torch.zeros((), dtype=torch.int64, device=CPU)
    for t in range(len(MEANS)):
        twin = renewed(kernel, work, t)
        kernel.tick(work)
        loop.tick(twin)
        new = {key: value.clone() for key, value in kept.items()}
        J, reset = kernel.step_for_all(rule, work, THRESHOLD, J_EMA, new)
        loops = kernel.family.scores(work.numbers, loop.observe(twin, []), numel()).sum(dim=0)
        compare("a score", [J / sum(SIZES)], [loops / sum(SIZES)], extra)
        finite, J_bar = J.isfinite().all(), new["J_bar"]
        compare("the average of a score", [J_bar], [average(J, finite, kept["J_bar"], J_EMA)])
        compare_choices(Choice(new, reset), choose(rule, J, J_bar, finite, kept, number, THRESHOLD))
        apply(loop, twin, {key: torch.stack([value] * N) for key, value in new.items()}, torch.stack([reset] * N))
        compare("a new value", work.values, twin.values, extra)
        compare_buffers(work, twin, extra)
        kept = new


def begun(rule: Rule) -> dict[str, Tensor]:
    """What one choice remembers before the first step."""
    start = {**rule.start(), "negative_steps": 0}
    wide = {int: torch.int64, list: torch.float64}
    return {key: torch.tensor(value, dtype=wide[type(value)], device=CPU) for key, value in start.items()}


def apply(loop: Loop, twin: Work, kept: dict[str, Tensor], reset: Tensor) -> None:
    """Have the loop apply what was decided for each fragment."""
    if "last_weights" in kept:
        loop.mix(twin, [], kept["last_weights"].tolist(), reset.tolist())
    else:
        loop.apply(twin, [], kept["last_choice"].tolist(), reset.tolist())


# ---------------------------------------------------------------- works


def start(family: Family, example: int, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> Work:
    """Make fragments before their first step, with the numbers of one of the family's examples.

    In all examples but the first, compact buffers are rounded stochastically if possible; codes of 8 bits always are.
    """
    options = family.examples[example]
    numbers = family.numbers(options)
    # an L2 term would have another last bit, and so another noise
    if dtypes[2] == torch.uint8 or (example and dtypes[2] == torch.bfloat16):
        numbers = numbers._replace(stochastic=True, l2=0.0)

    def column(dtype: torch.dtype) -> list[Tensor]:
        # the later half does not begin at a multiple of 16 bytes
        return [torch.zeros(n + i // 2, dtype=dtype, device=device)[i // 2 :] for i, n in enumerate(SIZES)]

    def buffers(buffer: Buffer) -> list[Tensor]:
        found = column(buffer.at_least(dtypes[2] if buffer.compact else dtypes[-1]))
        for tensor in found:
            tensor.fill_(buffer.fill)
        return found

    declared = family.buffers(options)
    work = Work(
        numbers,
        declared,
        values=column(dtypes[0]),
        grads=column(dtypes[1]),
        steps=[torch.zeros((), dtype=torch.float64, device=device) for _ in SIZES],
        buffers=[buffers(buffer) for buffer in declared],
        places=[Place(i, torch.Size((n // 7 + 2, 7)), 3) for i, n in enumerate(SIZES)] if family.placed else (),
    )
    generator = torch.Generator().manual_seed(0)
    for value in work.values:
        value.copy_(0.5 * normal(value.numel(), generator))
    return work


def renewed(kernel: Kernel, work: Work, t: int) -> Work:
    """Put the gradients of step ``t`` into ``work``, which ``kernel`` begins, and return its twin for the loop.

    The twin is on the CPU and in float32, except for buffers that are rounded stochastically.
    """
    generator = torch.Generator().manual_seed(1 + t)
    for grad in work.grads:
        mean = torch.linspace(1, 3, grad.numel(), dtype=torch.float32, device=CPU)
        grad.copy_(MEANS[t] * mean + 0.1 * normal(grad.numel(), generator))
    if t == len(MEANS) - 1:
        work.grads[1][0] = math.nan
    kernel.begin(work, locate(work))

    def copies(column: list[Tensor], dtype: torch.dtype | None = torch.float32) -> list[Tensor]:
        return [t.to(CPU, dtype, copy=True) for t in column]

    rounded = [buffer.compact and work.numbers.stochastic for buffer in work.declared]
    return Work(
        work.numbers,
        work.declared,
        copies(work.values),
        copies(work.grads),
        copies(work.steps, None),
        [copies(column, None if as_is else torch.float32) for column, as_is in zip(work.buffers, rounded, strict=True)],
        work.scored,
        work.places,
    )


def normal(n: int, generator: torch.Generator) -> Tensor:
    """Draw ``n`` normal numbers, whatever the default dtype and device are; torch's own generator is left alone."""
    return torch.randn(n, generator=generator, dtype=torch.float32, device=CPU)


def numel() -> Tensor:
    """The fragments' element counts in the form that scores take."""
    return torch.tensor(SIZES, dtype=torch.float64, device=CPU)


def per_element(sums: Tensor) -> list[Tensor]:
    """Divide sums by element counts: the means are of order 1."""
    return [sums / numel().clamp(min=1).unsqueeze(1)]
