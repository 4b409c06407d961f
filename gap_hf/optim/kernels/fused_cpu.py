"""The fused CPU kernels: the functions of ``c/fused_cpu.c``, called through ctypes."""

import ctypes
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..family import Scored
from ..rules.best import TIE, Best
from ..rules.mix import Mix
from ..rules.rule import Rule
from ..work import Work
from .build import Unavailable, load
from .kernel import Addresses, ChoosingKernel

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.uint8: 3}
ELEMENTS_OF_A_THREAD = 1 << 15
CPU = torch.device("cpu")  # whatever the default device is: C writes there


class Job(ctypes.Structure):
    """``struct job`` of ``c/job.h``."""

    _fields_: ClassVar = [
        *[(name, ctypes.c_int64) for name in ("n", "K", "firsts", "seconds", "threads")],
        *[(name, ctypes.c_int64) for name in ("value_dtype", "first_dtype", "second_dtype", "stochastic")],
        *[(name, ctypes.c_void_p) for name in ("table", "first", "numel", "rate", "gain", "constant")],
        ("mixes", ctypes.c_int64),
        *[(name, ctypes.c_double) for name in ("l2", "soft_reset")],
        *[(name, ctypes.c_int64) for name in ("maximize", "threshold")],
        *[(name, ctypes.c_double) for name in ("J_ema", "tie")],
        ("own", ctypes.c_void_p),
        ("follows", ctypes.c_int64),
    ]


class Description(NamedTuple):
    """What every job has in common as long as numbers and tensors are the same, which are compared by identity.

    Attributes:
        numbers: the numbers.
        lr: their learning rate.
        numel: the values' element counts, made anew when a tensor is another.
        elements: their sum.
        job: the job, without the addresses of the tensors.
        alive: what it points to.
    """

    numbers: Any
    lr: float
    numel: np.ndarray
    elements: int
    job: Job
    alive: list[Any]


class FusedCPU(ChoosingKernel):
    """The kernel that handles all tensors in one call; a subclass for each family names the functions and their input.

    torch does not see what the kernel writes, so the kernel tells autograd that the values have changed: a graph that
    was built before the step must not be differentiated after it.
    """

    name: ClassVar[str] = "fused"
    by_address: ClassVar[bool] = True
    rules: ClassVar[tuple[type[Rule], ...]] = (Best, Mix)
    prefix: ClassVar[str]

    def __init__(self, family: Scored) -> None:
        super().__init__(family)
        self.addresses: Addresses | None = None
        self.job: Job | None = None
        self.described: Description | None = None

    @staticmethod
    def why_not(dtypes: tuple[torch.dtype, ...]) -> str | None:
        library = load()
        if isinstance(library, Unavailable):
            return str(library)
        if wrong := set(dtypes) - set(DTYPES):  # codes of 8 bits are no family's that could not do them
            return f"it takes float32, bfloat16 and float16, not {wrong.pop()}"
        if dtypes[0] != dtypes[1]:
            return f"it takes gradients of the parameter's dtype, not {dtypes[1]} for {dtypes[0]}"
        if torch.float16 in dtypes and not library.gap_has_float16():
            return "the C compiler it was built with has no _Float16"
        return None

    @abstractmethod
    def own(self, numbers: Any) -> tuple[ctypes.Structure, list[Any]]:
        """Put what the family's functions read of ``numbers`` into a struct; also return the arrays it points to."""

    # ------------------------------------------------------------------ the calls
    def begin(self, work: Work, addresses: Addresses | None) -> None:
        self.addresses, self.job = addresses, None

    def known(self) -> Addresses:
        """Return the addresses of the tensors."""
        assert self.addresses is not None
        return self.addresses

    def call(self, name: str, work: Work, *outputs: Any) -> None:
        """Call the family's function ``name`` on ``work``.

        Raises:
            MemoryError: it had no memory for its tables; but for the counts of steps, nothing has changed.
        """
        function = getattr(load(), f"gap_{self.prefix}_{name}")
        if function(ctypes.byref(self.prepared(work)), *outputs):
            raise MemoryError(f"the fused CPU kernel has no memory for its tables of {len(work.values)} parameters")

    def tick(self, work: Work) -> None:
        counters = self.known().counters
        load().gap_tick(pointer(counters), ctypes.c_int64(len(counters)))

    def observe(self, work: Work, answers: list[Tensor]) -> Tensor:
        sums = self.no_sums(work)
        self.call("observe", work, address(sums))
        return sums

    def apply(self, work: Work, answers: list[Tensor], choices: Sequence[int], resets: Sequence[bool]) -> None:
        chosen, due = np.array(choices, dtype=np.int64), np.array(resets, dtype=np.uint8)
        self.call("apply", work, pointer(chosen), None, pointer(due))
        increment_version(work.values)

    def mix(
        self, work: Work, answers: list[Tensor], weights: Sequence[Sequence[float]], resets: Sequence[bool]
    ) -> None:
        table, due = np.array(weights, dtype=np.float64), np.array(resets, dtype=np.uint8)
        self.prepared(work).mixes = True
        self.call("apply", work, None, pointer(table), pointer(due))
        increment_version(work.values)

    def step_constant(self, work: Work, weights: tuple[float, ...]) -> None:
        with self.constant(work, weights):
            self.call("step_constant", work)
        increment_version(work.values)

    def step(self, rule: Rule, work: Work, threshold: int, kept: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        self.prepared(work).threshold = threshold
        sums, resets = self.no_sums(work), torch.empty(len(work.values), dtype=torch.uint8, device=CPU)
        with self.constant(work, rule.weights):
            self.call("step", work, address(sums), *memory(kept), address(resets))
        increment_version(work.values)
        return resets.bool(), sums

    def step_for_all(
        self, rule: Rule, work: Work, threshold: int, J_ema: float, kept: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        job = self.prepared(work)
        job.threshold, job.J_ema = threshold, J_ema
        sums, reset = self.no_sums(work), torch.empty((), dtype=torch.uint8, device=CPU)
        J = torch.empty(job.K, dtype=torch.float64, device=CPU)
        with self.constant(work, rule.weights):
            self.call("step_for_all", work, *map(address, (sums, J, kept["J_bar"])), *memory(kept), address(reset))
        increment_version(work.values)
        return J, reset.bool()

    # ------------------------------------------------------------------ what they read
    def no_sums(self, work: Work) -> Tensor:
        """Make an empty tensor for the sums."""
        return torch.empty(len(work.values), self.family.sums(work.numbers), dtype=torch.float64, device=CPU)

    def prepared(self, work: Work) -> Job:
        """Return ``work`` as the C code reads it, made once per step."""
        if self.job is None:
            table, _, numel = self.known()
            lr, known = float(work.numbers.lr), self.described  # a tensor's number may have changed
            if known is None or known.numbers is not work.numbers or known.numel is not numel or known.lr != lr:
                known = self.described = self.describe(work, lr, numel)
            self.job = Job.from_buffer_copy(known.job)
            self.job.table, self.job.threads = table.ctypes.data, threads(known.elements)
        return self.job

    @contextmanager
    def constant(self, work: Work, weights: tuple[float, ...] | None) -> Iterator[None]:
        """Tell the functions that are called meanwhile a mix's constant weights, if there is a mix."""
        job = self.prepared(work)
        table = doubles(weights or ())
        job.mixes, job.constant = weights is not None, ctypes.addressof(table)
        yield
        job.constant = None

    def describe(self, work: Work, lr: float, numel: np.ndarray) -> Description:
        """Describe ``work``, whose values have ``numel`` elements, at the learning rate ``lr``."""
        numbers, K = work.numbers, len(work.numbers.gains)
        factors = doubles([*(lr * factor for factor in numbers.modulation), *numbers.gains])
        first = integers([-1 if place is None else place for place in numbers.first])
        firsts = len(numbers.first) - numbers.first.count(None)
        own, arrays = self.own(numbers)
        job = Job(
            n=len(work.values),
            K=K,
            firsts=firsts,
            seconds=len(work.buffers) - firsts,
            value_dtype=DTYPES[work.values[0].dtype],
            first_dtype=DTYPES[work.buffers[0][0].dtype],
            second_dtype=DTYPES[work.buffers[-1][0].dtype],
            stochastic=numbers.stochastic,
            first=ctypes.addressof(first),
            numel=numel.ctypes.data,
            rate=ctypes.addressof(factors),
            gain=ctypes.addressof(factors) + 8 * K,
            l2=numbers.l2,
            soft_reset=numbers.soft_reset,
            maximize=numbers.maximize,
            tie=TIE,
            own=ctypes.addressof(own),
        )
        return Description(numbers, lr, numel, int(numel.sum()), job, [first, factors, own, *arrays])


def threads(elements: int) -> int:
    """Return how many threads are worth waking for so many elements; torch gives each of its own no fewer."""
    return max(1, min(torch.get_num_threads(), elements // ELEMENTS_OF_A_THREAD))


def memory(kept: dict[str, Tensor]) -> list[ctypes.c_void_p | None]:
    """The addresses of choices, weights (none, if a candidate is picked) and counts of negative steps."""
    return [address(kept[key]) if key in kept else None for key in ("last_choice", "last_weights", "negative_steps")]


def doubles(values: Sequence[float]) -> Any:
    """Return ``values`` as C has them; NumPy takes longer to tell where a small array is."""
    return (ctypes.c_double * len(values))(*values)


def integers(values: Sequence[int]) -> Any:
    """Return ``values``, whole numbers of 64 bits, as C has them."""
    return (ctypes.c_int64 * len(values))(*values)


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """Return the address of an array, which the caller must keep alive."""
    return ctypes.c_void_p(array.ctypes.data)


def address(tensor: Tensor) -> ctypes.c_void_p:
    """Return the address of a tensor, which the caller must keep alive."""
    return ctypes.c_void_p(tensor.data_ptr())
