"""The fused CUDA kernel where there is a GPU: choices, silence, launches and CUDA graphs."""

from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

import gap_hf

from .cuda import (
    BF16,
    F32,
    needs_gpu,
)
from .cuda_optimizers import (
    CONSTANT,
    ON_A_GPU,
    OPTIONS,
    TYPES,
    choices_of,
    gradients,
    launches_of,
    options_of,
    parameters,
    same_weights,
)

GPU_SHAPES = [(300, 50), (5,), (4097,), (0,), (64, 64), ()]


@needs_gpu
class TestOnAGPU:
    @pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])
    @pytest.mark.parametrize("type_", TYPES)
    @pytest.mark.parametrize("name", ON_A_GPU)
    def test_as_on_the_cpu(self, name: str, type_: str, dtype: torch.dtype) -> None:
        cls, options = options_of(name, type_)
        both = [parameters(GPU_SHAPES, device, dtype) for device in ("cuda", "cpu")]
        optimizers = [cls(params, fused=True, **options) for params in both]
        seen = set()
        for t in range(80):
            for params, optimizer in zip(both, optimizers, strict=True):
                for p, g in zip(params, gradients(GPU_SHAPES, t, dtype), strict=True):
                    p.grad = g.to(p.device)
                optimizer.step()
            assert choices_of(optimizers[0]) == choices_of(optimizers[1]), t
            assert optimizers[0].last_resets == optimizers[1].last_resets, t
            same_weights(optimizers, rtol=1e-4 if dtype == F32 else 1e-2)
            seen.update(np.hstack(choices_of(optimizers[0])).tolist())
        assert len(seen) > 1 or type_ in (*CONSTANT, "first")
        for p, q in zip(*both, strict=True):
            tolerance = 1e-5 if dtype == F32 else 4 * sqrt(80) * torch.finfo(dtype).eps
            torch.testing.assert_close(p.cpu(), q, rtol=tolerance, atol=tolerance)

    def test_noise_of_the_rounding_is_the_cpus(self) -> None:
        moments = []
        for device in ("cuda", "cpu"):
            params = parameters(GPU_SHAPES, device, BF16)
            cls, options = OPTIONS["adam"]
            optimizer = cls(params, type="switch", state_dtype="bfloat16", fused=True, **options)
            for t in range(3):
                for p, g in zip(params, gradients(GPU_SHAPES, t, BF16), strict=True):
                    p.grad = g.to(device)
                optimizer.step()
            moments.append([optimizer.state[p]["exp_avg_1"].cpu() for p in params])
        for m, expected in zip(*moments, strict=True):
            assert (m != expected).sum() <= 0.001 * m.numel()

    def test_the_same_bits_every_time(self) -> None:
        results = []
        for _ in range(2):
            params = parameters(GPU_SHAPES, "cuda")
            optimizer = gap_hf.GapAdamW(params, type="switch", **OPTIONS["adam"][1])
            for t in range(5):
                for p, g in zip(params, gradients(GPU_SHAPES, t), strict=True):
                    p.grad = g.cuda()
                optimizer.step()
            results.append([*params, optimizer.last_scores])
        assert all(map(torch.equal, *results))

    @pytest.mark.parametrize("move", [False, True], ids=["still", "moving"])
    @pytest.mark.parametrize("type_", TYPES)
    @pytest.mark.parametrize("name", ON_A_GPU)
    def test_the_host_never_waits(self, name: str, type_: str, move: bool) -> None:
        cls, options = options_of(name, type_)
        params = parameters(GPU_SHAPES, "cuda")
        half, rate = len(params) // 2, torch.tensor(1e-4, device="cuda")
        optimizer = cls([{"params": params[:half]}, {"params": params[half:], "lr": rate}], **options)
        recorded = [[g.cuda() for g in gradients(GPU_SHAPES, t)] for t in range(6)]
        try:
            for t, grads in enumerate(recorded):
                for p, g in zip(params, grads, strict=True):
                    if move or p.grad is None:
                        p.grad = g
                    else:
                        p.grad.copy_(g)
                torch.cuda.set_sync_debug_mode("default" if t < 3 else "error")
                optimizer.step()
                optimizer.param_groups[0]["lr"] *= 0.9  # a scheduler
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @pytest.mark.parametrize("type_", TYPES)
    @pytest.mark.parametrize("name", ["adam", "adams", "adai"])
    def test_launches_are_constant_in_the_number_of_tensors(self, name: str, type_: str) -> None:
        launched = []
        for n in (3, 60):
            params = parameters([(20, 30)] * n, "cuda")
            cls, options = options_of(name, type_)
            optimizer = cls(params, **options)
            for p in params:
                p.grad = torch.ones_like(p)
            for _ in range(3):
                optimizer.step()
            torch.cuda.synchronize()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                optimizer.step()
                torch.cuda.synchronize()
            events = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
            launched.append(sorted(event for event in events if not event.startswith(("Memcpy", "Memset"))))
        if type_ in CONSTANT and name == "adam":
            assert launched[0] == sorted(launches_of(type_))
        assert set(launches_of(type_, name)) <= set(launched[0])
        assert len(launched[0]) == len(launched[1])

    @pytest.mark.parametrize("move", [False, True], ids=["still", "moving"])
    @pytest.mark.parametrize("lr", ["number", "tensor"])
    @pytest.mark.parametrize("type_", TYPES)
    @pytest.mark.parametrize("name", ON_A_GPU)
    def test_in_a_cuda_graph(self, name: str, type_: str, lr: str, move: bool) -> None:
        """Replays give the parameters and choices of ordinary steps. Gradients may move in the graph, too: there
        they are in its own memory."""
        cls, options = options_of(name, type_)
        both = [parameters(GPU_SHAPES, "cuda") for _ in range(2)]
        rates = [torch.tensor(0.01, device="cuda") if lr == "tensor" else 0.01 for _ in both]
        optimizers = [
            cls(params, lr=rate, capturable=True, **options) for params, rate in zip(both, rates, strict=True)
        ]
        static = [g.cuda() for g in gradients(GPU_SHAPES, 0)]

        def receive(t: int) -> None:
            for source, g in zip(static, gradients(GPU_SHAPES, t), strict=True):
                source.copy_(g)

        def backward(params: list[Tensor]) -> None:
            for p, source in zip(params, static, strict=True):
                p.grad = source * 1.0 if move else source

        for t in range(3):
            receive(t)
            for params, optimizer in zip(both, optimizers, strict=True):
                backward(params)
                optimizer.step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            backward(both[0])
            optimizers[0].step()
        for t in range(3, 60):
            receive(t)
            if lr == "tensor":
                for rate in rates:
                    rate.mul_(0.95)
            graph.replay()
            backward(both[1])
            optimizers[1].step()
            assert choices_of(optimizers[0]) == choices_of(optimizers[1]), t
            assert all(map(torch.equal, *both)), t
