"""Counting: what the profilers and modes see, checked against steps whose counts are known."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from gap_hf.bench.counts import STEP, count, count_events, state_bytes, tensors_in

CPU = torch.device("cpu")


def test_scratch_is_the_peak_of_what_is_made():
    x = torch.randn(1000, 1000)

    def step():
        y = x + 1  # 4 MB
        del y
        y = x * 2  # again 4 MB, but not at the same time
        z = y.sqrt()  # and 4 MB more
        return z.sum()

    assert count(step, CPU).scratch == pytest.approx(8e6, abs=1000)


def test_memory_that_was_there_before_does_not_count():
    kept = [torch.randn(1000)]
    x = torch.randn(1000)

    def step():
        kept[:] = [x.clone()]  # the old one goes when the new one is there

    assert count(step, CPU).scratch == pytest.approx(4000, abs=100)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[0].item(),
        lambda x: float(x[0]),
        lambda x: bool(x[0] > 0),
        lambda x: x.tolist(),
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
    ],
)
def test_reads(read):
    x = torch.ones(3)
    assert count(lambda: read(x), CPU).reads == 1


def test_operations():
    x = torch.ones(3)
    found = count(lambda: torch._foreach_add_([x, x.add_(1)], 1), CPU)
    assert (found.operations, found.reads) == (2, 0)
    assert (found.launches, found.waits) == (None, None)


def test_what_compiles_itself_is_not_watched():
    assert count(lambda: torch.ones(3), CPU, compiled=True)[:2] == (None, None)


def test_profiler_is_silent(capfd):
    count(lambda: torch.ones(3), CPU)
    print("still here")
    assert capfd.readouterr() == ("still here\n", "")


@dataclass
class Event:
    """As a profile has them, with what is looked at here."""

    name: str
    device_type: DeviceType = DeviceType.CPU
    start: float = 5.0
    end: float = 6.0
    is_user_annotation: bool = False

    @property
    def time_range(self):
        return SimpleNamespace(start=self.start, end=self.end)


def test_events_of_a_gpu():
    gpu = DeviceType.CUDA
    events = [
        Event(STEP, start=1, end=9),
        Event(STEP, gpu, is_user_annotation=True),
        Event("Optimizer.step#AdamW.step", gpu),
        *[Event("cudaLaunchKernel"), Event("cuLaunchKernelEx"), Event("cudaLaunchKernelExC"), Event("cudaGraphLaunch")],
        *[Event("void at::native::multi_tensor_apply_kernel<...>", gpu)] * 5,
        *[Event("cudaMemcpyAsync"), Event("Memcpy DtoH (Device -> Pageable)", gpu), Event("Memset (Device)", gpu)],
        *[Event("cudaStreamSynchronize"), Event("aten::add_"), Event("cudaStreamIsCapturing")],
        *[Event("cudaDeviceSynchronize", start=10, end=11), Event("cudaLaunchKernel", start=0.5, end=0.6)],
    ]
    assert count_events(events) == (4, 5, 2, 1)


def test_state_counts_shared_memory_once():
    p, table = torch.zeros(100, requires_grad=True), torch.zeros(256)
    optimizer = torch.optim.SGD([p])
    optimizer.state[p] = {
        "step": 3,
        "moments": [torch.zeros(100), torch.zeros(100)],
        "table": table,
        "again": table[:9],
    }
    assert state_bytes(optimizer) == 4 * (100 + 100 + 256)


def test_state_of_tensors_that_are_made_of_others():
    from torch.testing._internal.two_tensor import TwoTensor

    inner = [torch.zeros(5), torch.zeros(5)]
    assert [id(t) for t in tensors_in({"a": [TwoTensor(*inner)], "b": "text"})] == [id(t) for t in inner]
