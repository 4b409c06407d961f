"""The fused CUDA kernel, as far as each machine can tell.

Triton's interpreter runs the kernels on the CPU, and they are compared with the loop; Triton's compiler, which needs no
GPU either, builds them for real ones. Speed and silence of the device are tested where there is one.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gap_hf
from gap_hf.optim import kernels
from gap_hf.optim.kernels import Foreach, FusedCUDA, Loop, Rule, Work, fused_cuda
from gap_hf.optim.kernels.deal import Dealer, address

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = fused_cuda.why_not((torch.float32,) * 4) is None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not (HAS_TRITON and torch.cuda.is_available()), reason="no GPU here")

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16

ADAM = Rule(
    family="adam",
    betas=(0.8, 0.99),
    betas2=(0.999,),
    second=(0, 0),
    gains=(1.0, 1.0),
    modulation=(1.0, 1.0),
    lr=0.1,
    eps=1e-8,
    soft_reset=0.7,
)
SGDM = Rule("sgdm", (0.9, 0.5), (), (), (1.0, 1.0), (1.0, 1.0), 0.1, soft_reset=0.7)


def candidates(rule: Rule, betas: tuple[float, ...], second: tuple[int, ...] = ()) -> Rule:
    """``rule`` for K other candidates; the different beta2 are as many as ``second`` says."""
    K = len(betas)
    betas2 = (0.999, 0.99, 0.95)[: max(second) + 1] if second else ()
    return replaced(rule, betas=betas, betas2=betas2, second=second, gains=(1.0,) * K, modulation=(1.0,) * K)


def replaced(rule: Rule, **options: Any) -> Rule:
    return rule._replace(**options)


RULES = {
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
CASES += [(rule, d) for rule in ("adam-2", "adam-3-distinct", "sgdm-nesterov") for d in list(DTYPES)[1:]]
B = fused_cuda.BLOCK
SHAPES = [(3,), (0,), (B + 5,), (2, B // 2), ()]


def work_of(rule: Rule, dtypes: tuple[torch.dtype, ...], shapes: list[tuple[int, ...]], offset: int = 0) -> Work:
    """Fragments of ``shapes`` before their first step, ``offset`` elements from where memory was had."""
    generator = torch.Generator().manual_seed(0)

    def plain(values: Tensor, dtype: torch.dtype) -> Tensor:
        memory = torch.zeros(values.numel() + offset, dtype=dtype)
        memory[offset:] = values.flatten()
        return memory[offset:].view(values.shape)

    def zeros(dtype: torch.dtype) -> list[Tensor]:
        return [plain(torch.zeros(shape), dtype) for shape in shapes]

    values = [plain(torch.randn(shape, generator=generator), dtypes[0]) for shape in shapes]
    steps = [torch.zeros(()) for _ in shapes]
    first, second = [zeros(dtypes[1]) for _ in rule.betas], [zeros(dtypes[2]) for _ in rule.betas2]
    return Work(rule, values, zeros(dtypes[0]), steps, first, second)


def new_gradients(work: Work, seed: int) -> None:
    """Gradients that have a direction, in the memory of the old ones."""
    generator = torch.Generator().manual_seed(seed)
    for g in work.grads:
        g.copy_(torch.randn(g.shape, generator=generator) + 0.5)


def columns(work: Work) -> list[list[Tensor]]:
    return [work.values, work.grads, *work.first, *work.second]


def twin_of(work: Work) -> Work:
    """The same in float32, and bfloat16 only where it is rounded stochastically."""

    def wide(tensors: list[Tensor]) -> list[Tensor]:
        return [t.float().clone() for t in tensors]

    rounded = [[t.clone() for t in tensors] for tensors in work.first]
    first = rounded if work.rule.stochastic else [wide(tensors) for tensors in work.first]
    steps = [step.clone() for step in work.steps]
    return Work(work.rule, wide(work.values), wide(work.grads), steps, first, [wide(ts) for ts in work.second])


def true_sums(work: Work) -> Tensor:
    """The partial sums of the buffers as they are stored, in float64."""
    rule, rows = work.rule, []
    for i, p in enumerate(work.values):
        g = work.grads[i].double() + rule.l2 * p.double()
        r = [
            1 / ((v[i].double() / (1 - beta2 ** work.steps[i].item())).sqrt() + rule.eps)
            for beta2, v in zip(rule.betas2, work.second, strict=True)
        ]
        weights = [r[u] for u in rule.second] or [torch.ones(())] * len(rule.betas)
        dots = [(g * w * m[i].double()).sum() for w, m in zip(weights, work.first, strict=True)]
        rows.append(torch.stack([*dots, *(x.sum() for x in r)]))
    return torch.stack(rows)


def same(actual: list[Tensor], expected: list[Tensor], what: str) -> None:
    """Equal but for the last bits in float32, and in the others but for where that changes the rounding."""
    for a, e in zip(actual, expected, strict=True):
        if a.dtype == F32:
            torch.testing.assert_close(a, e, rtol=2e-6, atol=5e-7, msg=lambda message: f"{what}: {message}")
        else:
            unit = torch.finfo(a.dtype).eps
            e = e.to(a.dtype)
            assert (a != e).sum() <= 1 + 0.002 * a.numel(), what
            torch.testing.assert_close(a.float(), e.float(), rtol=unit, atol=1e-6, msg=what)


def step_both(kernel: FusedCUDA, work: Work, t: int) -> None:
    """One step of the kernel and of the loop from the same bits, compared after each pass."""
    new_gradients(work, t)
    twin = twin_of(work)
    work.prepared = None
    N, K = len(work.values), len(work.rule.betas)
    choices, resets = [(i + t) % K for i in range(N)], [(i + t) % 4 == 2 for i in range(N)]
    kernel.tick(work)
    Loop().tick(twin)
    assert work.steps == twin.steps
    sums = kernel.observe(work)
    loop_sums = Loop().observe(twin)
    assert (sums.shape, sums.dtype) == (loop_sums.shape, loop_sums.dtype)
    for actual, expected in zip(columns(work)[2:], columns(twin)[2:], strict=True):
        same(actual, expected, "moments")
        for a, e in zip(actual, expected, strict=True):
            e.copy_(a)
    torch.testing.assert_close(sums, true_sums(work), rtol=2e-6, atol=1e-6)
    if columns(work)[-1][0].dtype == F32 and not work.rule.stochastic:
        torch.testing.assert_close(sums, loop_sums, rtol=2e-6, atol=1e-6)
    kernel.apply(work, torch.tensor(choices), torch.tensor(resets))
    Loop().apply(twin, choices, resets)
    for actual, expected in zip(columns(work), columns(twin), strict=True):
        same(actual, expected, "after the step")


def whole_step(work: Work) -> None:
    N = len(work.values)
    FusedCUDA().tick(work)
    FusedCUDA().observe(work)
    FusedCUDA().apply(work, torch.zeros(N, dtype=torch.int64), torch.zeros(N, dtype=torch.bool))


# ---------------------------------------------------------------- whole optimizers
OPTIONS = {
    "adam": (gap_hf.GapAdamW, {"betas": [(0.8, 0.999), (0.99, 0.99)]}),
    "adam-l2-reset": (
        gap_hf.Adam,
        {
            "betas": [(0.5, 0.999), (0.9, 0.999), (0.99, 0.999)],
            "weight_decay": 0.1,
            "hysteresis_threshold": 1,
            "second_order_momentum_reset_mode": "square",
        },
    ),
    "sgdm": (gap_hf.SGDM, {"momentum": [0.5, 0.9], "nesterov": True, "weight_decay": 0.01}),
}
TYPES = ["switch", "switch_parameter_wise"]


def parameters(shapes: list[tuple[int, ...]], device: str, dtype: torch.dtype = F32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]


def gradients(shapes: list[tuple[int, ...]], t: int, dtype: torch.dtype = F32) -> list[Tensor]:
    """Noise around a mean that turns around every twenty steps."""
    generator = torch.Generator().manual_seed(1)
    mean = [torch.randn(shape, generator=generator) for shape in shapes]
    generator.manual_seed(1000 + t)
    size = 1.0 if t // 20 % 2 == 0 else -0.3
    return [(torch.randn(m.shape, generator=generator) * 0.5 + m * size).to(dtype) for m in mean]


def choices_of(optimizer: Any) -> list[Any]:
    return [group["last_choice"] for group in optimizer.param_groups]


# ---------------------------------------------------------------- in Triton's interpreter
def exact_conversion(convert: Callable) -> Callable:
    """Triton's interpreter cuts floats off to bfloat16; GPUs round them, and so does this."""

    def rounded(data: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if target.name == "bf16":
            return torch.from_numpy(np.array(data)).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return convert(data, source, target, mode)

    return rounded


class Launches:
    """Names of the kernels that are launched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        cls = type(fused_cuda.load().tick)
        monkeypatch.setattr(cls, "run", self.counting(cls.run))

    def counting(self, run: Callable) -> Callable:
        def counted(kernel: Any, *args: Any, **kwargs: Any) -> Any:
            self.names.append(kernel.__name__)
            return run(kernel, *args, **kwargs)

        return counted


class TestInTheInterpreter:
    __test__ = INTERPRETED

    @pytest.fixture(autouse=True)
    def rounding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from triton.runtime import interpreter

        monkeypatch.setattr(interpreter, "_convert_float", exact_conversion(interpreter._convert_float))

    @pytest.mark.parametrize(("rule", "dtypes"), CASES)
    def test_as_the_loop(self, rule: str, dtypes: str) -> None:
        numbers = replaced(RULES[rule], stochastic=dtypes in STOCHASTIC)
        if numbers.stochastic:  # the last bit of the L2 term is another in each kernel, and so the noise
            numbers = replaced(numbers, l2=0.0)
        if dtypes == "fp16":  # small v are 0 in float16; the step must stay finite
            numbers = replaced(numbers, eps=1e-2)
        work = work_of(numbers, DTYPES[dtypes], SHAPES)
        address(work)
        for t in range(3):
            step_both(FusedCUDA(), work, t)

    @pytest.mark.parametrize("dtypes", ["fp32", "bf16"])
    def test_memory_that_is_not_aligned(self, dtypes: str) -> None:
        work = work_of(ADAM, DTYPES[dtypes], [(B,), (7,)], offset=1)
        address(work)
        for t in range(2):
            step_both(FusedCUDA(), work, t)

    def test_many_blocks_are_added_up_in_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fused_cuda, "CHUNK", 2)
        work = work_of(ADAM, DTYPES["fp32"], [(4 * B + 1,), (5,), (2 * B,)])
        address(work)
        step_both(FusedCUDA(), work, 0)

    @pytest.mark.parametrize("rule", [ADAM, SGDM], ids=["adam", "sgdm"])
    def test_learning_rate_in_a_tensor(self, rule: Rule) -> None:
        lr = torch.tensor(0.1)
        work = work_of(replaced(rule, lr=lr, decay=0.1), DTYPES["fp32"], SHAPES[:3])
        address(work)
        for t in range(2):
            step_both(FusedCUDA(), work, t)
            lr *= 0.5

    def test_a_count_of_steps_is_shared(self) -> None:
        work = work_of(ADAM, DTYPES["fp32"], [(4,)] * 3)
        work.steps[2] = work.steps[0]
        address(work)
        for _ in range(3):
            FusedCUDA().tick(work)
        assert [step.item() for step in work.steps] == [3, 3, 3]

    def test_one_choice_for_all(self) -> None:
        """``type='switch'`` hands one number over, as often as there are fragments."""
        works = [work_of(ADAM, DTYPES["fp32"], [(5,)] * 3) for _ in range(2)]
        for work, choices in zip(works, (torch.tensor(1).expand(3), torch.tensor([1, 1, 1])), strict=True):
            address(work)
            new_gradients(work, 0)
            FusedCUDA().tick(work)
            FusedCUDA().observe(work)
            FusedCUDA().apply(work, choices, torch.tensor(True).expand(3))
        for a, b in zip(columns(works[0]), columns(works[1]), strict=True):
            assert all(map(torch.equal, a, b))

    def test_nothing_but_empty_fragments(self) -> None:
        work = work_of(ADAM, DTYPES["fp32"], [(0,), (0, 3)])
        address(work)
        step_both(FusedCUDA(), work, 0)

    @pytest.mark.parametrize("type_", TYPES)
    @pytest.mark.parametrize("name", OPTIONS)
    def test_a_whole_optimizer(self, monkeypatch: pytest.MonkeyPatch, name: str, type_: str) -> None:
        cls, options = OPTIONS[name]
        shapes = [(4, 5), (3,), (0,), ()]
        both = [parameters(shapes, "cpu") for _ in range(2)]
        optimizers = [
            cls(both[0], type=type_, capturable=True, **options),
            cls(both[1], type=type_, foreach=False, **options),
        ]
        kernel = {None: FusedCUDA(), False: Loop()}  # by the flag foreach
        monkeypatch.setattr("gap_hf.optim.kernels.deal.pick", lambda foreach, *_: kernel[foreach])
        for t in range(14, 26):
            for params, optimizer in zip(both, optimizers, strict=True):
                for p, g in zip(params, gradients(shapes, t), strict=True):
                    p.grad = g
                optimizer.step()
            assert choices_of(optimizers[0]) == choices_of(optimizers[1]), t
            assert optimizers[0].last_resets == optimizers[1].last_resets, t
        for p, q in zip(*both, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("family", [ADAM, SGDM], ids=["adam", "sgdm"])
    def test_launches_are_constant_in_the_number_of_tensors(
        self, monkeypatch: pytest.MonkeyPatch, family: Rule
    ) -> None:
        launches = Launches(monkeypatch)
        for n in (3, 60):
            work = work_of(family, DTYPES["fp32"], [(2,)] * n)
            address(work)
            launches.names.clear()
            whole_step(work)
            assert launches.names == ["tick", "observe", "add_up", "apply"]

    def test_a_value_that_is_not_finite_reaches_the_sums(self) -> None:
        work = work_of(ADAM, DTYPES["fp32"], [(9,), (B,)])
        address(work)
        new_gradients(work, 0)
        work.grads[0][4] = torch.nan
        FusedCUDA().tick(work)
        sums = FusedCUDA().observe(work)
        assert sums[0].isnan().all()
        assert sums[1].isfinite().all()


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
@needs_triton
def test_in_the_interpreter() -> None:
    """Triton decides when it is imported whether it interprets: in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::TestInTheInterpreter"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout


# ---------------------------------------------------------------- which one, and what is uploaded
@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing is remembered of what can be imported."""
    caches = (fused_cuda.load, kernels.pick)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_without_triton_another_kernel_takes_over(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "gap_hf.optim.kernels.fused_cuda_kernels", raising=False)
    monkeypatch.delattr(kernels, "fused_cuda_kernels", raising=False)
    assert type(kernels.pick(None, None, "cuda", (F32,) * 4)) is Foreach
    assert "Triton is not installed; pip install triton" in caplog.text
    with pytest.raises(RuntimeError, match="fused=True can't be done: Triton is not installed"):
        kernels.pick(None, True, "cuda", (F32,) * 4)


@needs_triton
def test_dtypes() -> None:
    for first in (F32, BF16):
        assert type(kernels.pick(None, None, "cuda", (BF16, BF16, first, F32))) is FusedCUDA
    assert "float64" in str(fused_cuda.why_not((torch.float64,) * 4))
    assert "gradients of the parameter's dtype" in str(fused_cuda.why_not((BF16, F32, F32, F32)))


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Kernels are not launched but recorded: name, arguments, options."""
    launched: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def launch(work: Work, name: str, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        launched.append((name, arguments, options))

    monkeypatch.setattr(fused_cuda, "launch", launch)
    return launched


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of tables that are uploaded."""
    sizes: list[int] = []
    monkeypatch.setattr(fused_cuda, "pinned", lambda table, device: sizes.append(len(table)) or table.clone())
    return sizes


@needs_triton
def test_uploads_only_what_has_changed(silent: list, uploads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    work, dealer = work_of(ADAM, DTYPES["fp32"], [(3,), (B + 1,)]), Dealer()
    monkeypatch.setattr("gap_hf.optim.kernels.deal.pick", lambda *_: FusedCUDA())

    def uploaded() -> int:
        uploads.clear()
        ((_, _, dealt),) = dealer.deal(replace(work, prepared=None), None, None)
        whole_step(dealt)
        return len(uploads)

    assert uploaded() == 3
    assert uploaded() == 0
    gradients = work.grads  # kept, so that the new ones lie elsewhere
    work.grads = [g.clone() for g in gradients]
    assert uploaded() == 1
    assert uploaded() == 0
    work.rule = replaced(work.rule, betas=(0.5, 0.99), lr=0.2)
    assert uploaded() == 1
    work.rule = replaced(work.rule, lr=0.3)
    assert uploaded() == 0


@needs_triton
def test_gradients_that_move_in_a_capture(silent: list, uploads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph gets a table of its own, in pinned memory that was there before."""
    work = work_of(ADAM, DTYPES["fp32"], [(3,), (B + 1,)])

    def step() -> int:
        """With new gradients; the number of uploads."""
        uploads.clear()
        work.grads, work.prepared = [g.clone() for g in work.grads], None
        address(work)
        whole_step(work)
        return len(uploads)

    assert step() == 3
    old = work.memory["table"]
    monkeypatch.setattr(fused_cuda, "capturing", lambda device: True)
    assert step() == 0
    assert "table" not in work.memory, "it is not on the device before the graph is replayed"
    kept, *others = work.memory["captured"]
    assert kept.here is old.here
    assert kept.there[: len(work.addresses)].tolist() == work.addresses.tolist()
    assert others == [work.memory["blocks"], work.memory["numbers"]]
    with pytest.raises(RuntimeError, match="capture an optimizer step only after an ordinary step"):
        step()
    monkeypatch.setattr(fused_cuda, "capturing", lambda device: False)
    assert step() == 1


@needs_triton
def test_counts_of_steps_elsewhere_are_an_error_not_a_crash(silent: list) -> None:
    work = work_of(ADAM, DTYPES["fp32"], [(3,)])
    work.steps = [torch.zeros((), device="meta")]
    address(work)
    with pytest.raises(RuntimeError, match="needs the counts of steps on cpu, but they are on meta"):
        whole_step(work)


# ---------------------------------------------------------------- compiled for real hardware
def argument_type(argument: Any) -> str:
    """As Triton's launcher finds it."""
    names = {torch.bool: "i1", torch.int64: "i64", F32: "fp32", torch.float64: "fp64"}
    if isinstance(argument, Tensor):
        return "*" + names[argument.dtype]
    return "fp32" if isinstance(argument, float) else "i32"


def compiled(name: str, arguments: tuple[Any, ...], options: dict[str, Any], capability: int) -> Any:
    """What a launch compiles on a GPU of ``capability``."""
    triton = pytest.importorskip("triton", minversion="3.3")
    from triton.backends.compiler import GPUTarget

    function = getattr(fused_cuda.load(), name)
    constants = {key: value for key, value in options.items() if key != "num_warps"}
    types = [argument_type(argument) for argument in arguments] + ["constexpr"] * len(constants)
    signature = dict(zip([*function.arg_names[: len(arguments)], *constants], types, strict=True))
    assert set(signature) == set(function.arg_names)
    signature = {key: signature[key] for key in function.arg_names}
    tensors = [i for i, argument in enumerate(arguments) if isinstance(argument, Tensor)]
    aligned = {(i,): [["tt.divisibility", 16]] for i in tensors}
    source = triton.compiler.ASTSource(function, signature, constexprs=constants, attrs=aligned)
    warps = {"num_warps": options.get("num_warps", 4)}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=warps)


HARDWARE = [("adam-3-distinct", dtypes, 90) for dtypes in DTYPES]
HARDWARE += [("sgdm-nesterov", dtypes, 90) for dtypes in ("fp32", "bf16", "fp32-bf16")]
HARDWARE += [("adam-l2", "fp32", 90), ("adam-reset", "bf16-bf16", 80), ("sgdm-1", "fp16", 80)]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@needs_triton
@pytest.mark.parametrize(("rule", "dtypes", "capability"), HARDWARE)
def test_compiles(silent: list, monkeypatch: Any, tmp_path: Path, rule: str, dtypes: str, capability: int) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    work = work_of(replaced(RULES[rule], stochastic=dtypes in STOCHASTIC), DTYPES[dtypes], [(5,)])
    address(work)
    whole_step(work)
    assert [name for name, _, _ in silent] == ["tick", "observe", "add_up", "apply"]
    for name, arguments, options in silent:
        kernel = compiled(name, arguments, options, capability)
        assert len(kernel.asm["cubin"]) > 1000
        if name in ("observe", "apply"):  # whole blocks travel 16 bytes at a time
            assert re.search(r"ld\.global\S*\.v4\.b32", kernel.asm["ptx"])
            assert re.search(r"st\.global\S*\.v4\.b32", kernel.asm["ptx"])


# ---------------------------------------------------------------- on a GPU
GPU_SHAPES = [(300, 50), (5,), (4097,), (0,), (64, 64), ()]


@needs_gpu
class TestOnAGPU:
    @pytest.mark.parametrize("dtype", [F32, BF16], ids=["fp32", "bf16"])
    @pytest.mark.parametrize("type_", TYPES)
    @pytest.mark.parametrize("name", OPTIONS)
    def test_as_on_the_cpu(self, name: str, type_: str, dtype: torch.dtype) -> None:
        cls, options = OPTIONS[name]
        both = [parameters(GPU_SHAPES, device, dtype) for device in ("cuda", "cpu")]
        optimizers = [cls(params, type=type_, fused=True, **options) for params in both]
        seen = set()
        for t in range(80):
            for params, optimizer in zip(both, optimizers, strict=True):
                for p, g in zip(params, gradients(GPU_SHAPES, t, dtype), strict=True):
                    p.grad = g.to(p.device)
                optimizer.step()
            assert choices_of(optimizers[0]) == choices_of(optimizers[1]), t
            assert optimizers[0].last_resets == optimizers[1].last_resets, t
            seen.update(np.ravel(choices_of(optimizers[0])).tolist())
        assert len(seen) > 1
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
    @pytest.mark.parametrize("name", OPTIONS)
    def test_the_host_never_waits(self, name: str, type_: str, move: bool) -> None:
        cls, options = OPTIONS[name]
        params = parameters(GPU_SHAPES, "cuda")
        half = len(params) // 2
        optimizer = cls([{"params": params[:half]}, {"params": params[half:], "lr": 1e-4}], type=type_, **options)
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
    def test_launches_are_constant_in_the_number_of_tensors(self, type_: str) -> None:
        launched = []
        for n in (3, 60):
            params = parameters([(20, 30)] * n, "cuda")
            optimizer = gap_hf.GapAdamW(params, type=type_, **OPTIONS["adam"][1])
            for p in params:
                p.grad = torch.ones_like(p)
            for _ in range(3):
                optimizer.step()
            torch.cuda.synchronize()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                optimizer.step()
                torch.cuda.synchronize()
            names = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
            launched.append(sorted(name for name in names if not name.startswith(("Memcpy", "Memset"))))
        assert {"tick", "observe", "add_up", "apply"} <= set(launched[0])
        assert len(launched[0]) == len(launched[1])

    @pytest.mark.parametrize("move", [False, True], ids=["still", "moving"])
    @pytest.mark.parametrize("lr", ["number", "tensor"])
    @pytest.mark.parametrize("type_", TYPES)
    @pytest.mark.parametrize("name", OPTIONS)
    def test_in_a_cuda_graph(self, name: str, type_: str, lr: str, move: bool) -> None:
        """Replays give the parameters and choices of ordinary steps. Gradients may move in the graph, too: there
        they are in its own memory."""
        cls, options = OPTIONS[name]
        both = [parameters(GPU_SHAPES, "cuda") for _ in range(2)]
        rates = [torch.tensor(0.01, device="cuda") if lr == "tensor" else 0.01 for _ in both]
        optimizers = [
            cls(params, lr=rate, type=type_, capturable=True, **options)
            for params, rate in zip(both, rates, strict=True)
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
