"""The fused CPU kernel: the functions of ``fused_cpu.c``, called through ctypes."""

import ctypes
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .build import Unavailable, load
from .work import Kernel, Work

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
CPU = torch.device("cpu")  # whatever the default device is: C writes there

WAVE = 1 << 19
"""Elements that ``step`` observes before it applies: about 10 MB of buffers for K=2, in reach of the last-level cache.
From 2^16 to 2^20 it made no difference beyond noise."""


class Job(ctypes.Structure):
    """``struct job`` of fused_cpu.c."""

    _fields_: ClassVar = [
        *[(name, ctypes.c_int64) for name in ("family", "n", "K", "U", "threads")],
        *[(name, ctypes.c_int64) for name in ("value_dtype", "first_dtype", "second_dtype", "stochastic")],
        *[(name, ctypes.c_void_p) for name in ("table", "numel", "second", "beta1", "beta2", "rate", "gain")],
        *[(name, ctypes.c_double) for name in ("eps", "keep", "l2", "dampening")],
        ("nesterov", ctypes.c_int64),
        ("maximize", ctypes.c_int64),
        *[(name, ctypes.c_double) for name in ("soft_reset", "second_reset")],
        *[(name, ctypes.c_int64) for name in ("wave", "threshold")],
        ("J_ema", ctypes.c_double),
    ]


def why_not(dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Why this kernel can't take value, gradient, first and second moments of ``dtypes``, or None if it can."""
    library = load()
    if isinstance(library, Unavailable):
        return str(library)
    if wrong := set(dtypes) - set(DTYPES):
        return f"it takes float32, bfloat16 and float16, not {wrong.pop()}"
    if dtypes[0] != dtypes[1]:
        return f"it takes gradients of the parameter's dtype, not {dtypes[1]} for {dtypes[0]}"
    if torch.float16 in dtypes and not library.gap_has_float16():
        return "the C compiler it was built with has no _Float16"
    return None


class FusedCPU(Kernel):
    """One call for all tensors and both moments.

    It writes where torch does not look, and so tells autograd that the values have changed: a graph that was built
    before the step must not be differentiated after it.
    """

    name: ClassVar[str] = "fused"
    by_address: ClassVar[bool] = True

    def tick(self, work: Work) -> None:
        counters = known(work.counters)
        load().gap_tick(pointer(counters), ctypes.c_int64(len(counters)))

    def observe(self, work: Work) -> Tensor:
        job = prepare(work)
        sums = torch.empty(len(work.values), job.K + job.U, dtype=torch.float64, device=CPU)
        load().gap_observe(ctypes.byref(job), ctypes.c_void_p(sums.data_ptr()))
        return sums

    def apply(self, work: Work, choices: list[int], resets: list[bool]) -> None:
        chosen, due = np.array(choices, dtype=np.int64), np.array(resets, dtype=np.uint8)
        load().gap_apply(ctypes.byref(prepare(work)), pointer(chosen), pointer(due))
        increment_version(work.values)

    def step(self, work: Work, threshold: int, choices: Tensor, negative_steps: Tensor) -> tuple[Tensor, Tensor]:
        """``observe``, a choice for each fragment, ``apply``: the second pass finds the buffers in the cache.

        Only where each fragment is a whole parameter with a choice of its own.

        Args:
            work: the fragments.
            threshold: of the hysteresis.
            choices: ``(N,)`` int64, the previous ones; replaced.
            negative_steps: ``(N,)`` int64, the counts so far; replaced.

        Returns:
            Where a reset was due, ``(N,)`` bool, and what ``observe`` returns.
        """
        job = prepare(work)
        job.threshold = threshold
        sums = torch.empty(len(work.values), job.K + job.U, dtype=torch.float64, device=CPU)
        resets = torch.empty(len(work.values), dtype=torch.uint8, device=CPU)
        outputs = [ctypes.c_void_p(t.data_ptr()) for t in (sums, choices, negative_steps, resets)]
        load().gap_step(ctypes.byref(job), *outputs)
        increment_version(work.values)
        return resets.bool(), sums

    def step_for_all(
        self, work: Work, threshold: int, J_ema: float, choice: Tensor, negative_steps: Tensor, J_bar: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``observe``, one choice for all, ``apply``: in one call where ``work`` is all there is.

        Args:
            work: the fragments, each a whole parameter.
            threshold: of the hysteresis.
            J_ema: of the moving average.
            choice: 0-dim int64, the previous one; replaced.
            negative_steps: 0-dim int64, the count so far; replaced.
            J_bar: ``(K,)`` float64, the average so far; replaced.

        Returns:
            The scores J, ``(K,)`` float64, and whether a reset was due, 0-dim bool.
        """
        job = prepare(work)
        job.threshold, job.J_ema = threshold, J_ema
        sums = torch.empty(len(work.values), job.K + job.U, dtype=torch.float64, device=CPU)
        J, reset = torch.empty(job.K, dtype=torch.float64, device=CPU), torch.empty((), dtype=torch.uint8, device=CPU)
        outputs = [ctypes.c_void_p(t.data_ptr()) for t in (sums, J, J_bar, choice, negative_steps, reset)]
        load().gap_step_for_all(ctypes.byref(job), *outputs)
        increment_version(work.values)
        return J, reset.bool()


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """The address of an array that the caller keeps alive."""
    return ctypes.c_void_p(array.ctypes.data)


def known(array: np.ndarray | None) -> np.ndarray:
    """What the dealer has filled in."""
    assert array is not None
    return array


def prepare(work: Work) -> Job:
    """``work`` as the C code reads it; ``work`` keeps it, and the arrays that it points to."""
    if work.prepared is None:
        job, numbers = describe(work)
        work.prepared = job, numbers
    return work.prepared[0]


def describe(work: Work) -> tuple[Job, list[np.ndarray]]:
    """The job, and arrays that must live as long."""
    rule, table, numel = work.rule, known(work.addresses), known(work.numel)
    lr = float(rule.lr)
    K, U, n = len(rule.betas), len(rule.betas2), len(work.values)
    rates = [lr * factor for factor in rule.modulation]
    doubles = np.array([*rule.betas, *rule.betas2, *rates, *rule.gains], dtype=np.float64)
    second = np.array(rule.second, dtype=np.int64)
    first_double = doubles.ctypes.data
    job = Job(
        family=int(rule.family == "sgdm"),
        n=n,
        K=K,
        U=U,
        threads=torch.get_num_threads(),
        value_dtype=DTYPES[work.values[0].dtype],
        first_dtype=DTYPES[work.first[0][0].dtype],
        second_dtype=DTYPES[work.second[0][0].dtype] if U else 0,
        stochastic=rule.stochastic,
        table=table.ctypes.data,
        numel=numel.ctypes.data,
        second=second.ctypes.data,
        beta1=first_double,
        beta2=first_double + 8 * K,
        rate=first_double + 8 * (K + U),
        gain=first_double + 8 * (2 * K + U),
        eps=rule.eps,
        keep=1 - lr * rule.decay,
        l2=rule.l2,
        dampening=rule.dampening,
        nesterov=rule.nesterov,
        maximize=rule.maximize,
        soft_reset=rule.soft_reset,
        second_reset=rule.second_reset,
        wave=WAVE,
    )
    return job, [table, numel, second, doubles]
