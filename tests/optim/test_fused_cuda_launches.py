"""What the fused CUDA kernel launches and uploads, and that Triton's compiler builds it; neither needs a GPU."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gap_hf.optim.families.adai import AdaiFamily
from gap_hf.optim.families.adam import AdamFamily
from gap_hf.optim.families.adams import AdamsFamily
from gap_hf.optim.kernels import fused_cuda, selfcheck
from gap_hf.optim.kernels.adam_cuda import AdamOnCUDA
from gap_hf.optim.kernels.deal import Dealer
from gap_hf.optim.kernels.foreach import Foreach
from gap_hf.optim.kernels.fused_cuda import WARPS, FusedCUDA
from gap_hf.optim.kernels.kernel import locate
from gap_hf.optim.kernels.pick import pick
from gap_hf.optim.work import Work

from .cuda import (
    ADAM,
    BF16,
    DTYPES,
    F32,
    RULES,
    STOCHASTIC,
    B,
    kernel_of,
    needs_triton,
    replaced,
    take,
    whole_step,
    work_of,
)

ADAMS = AdamFamily()


# ---------------------------------------------------------------- which one, and what is uploaded
@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing is remembered of what can be imported."""
    caches = (fused_cuda.load, pick)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_without_triton_another_kernel_takes_over(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in [name for name in sys.modules if name.startswith("gap_hf.optim.kernels.triton_")]:
        monkeypatch.delitem(sys.modules, name)
    assert pick(ADAMS, None, None, "cuda", (F32,) * 4) is Foreach
    assert "Triton is not installed; pip install triton" in caplog.text
    with pytest.raises(RuntimeError, match="fused=True can't be done: Triton is not installed"):
        pick(ADAMS, None, True, "cuda", (F32,) * 4)


@needs_triton
def test_dtypes() -> None:
    for first in (F32, BF16):
        assert pick(ADAMS, None, None, "cuda", (BF16, BF16, first, F32)) is AdamOnCUDA
    assert "float64" in str(FusedCUDA.why_not((torch.float64,) * 4))
    assert "gradients of the parameter's dtype" in str(FusedCUDA.why_not((BF16, F32, F32, F32)))


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Kernels are not launched but recorded: name, arguments, options."""
    launched: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def launch(work: Work, module: str, name: str, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        launched.append((f"{module}.{name}", arguments, options))

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
    work, dealer = work_of(ADAM, DTYPES["fp32"], [(3,), (B + 1,)]), Dealer(ADAMS)
    monkeypatch.setattr("gap_hf.optim.kernels.deal.pick", lambda *_: AdamOnCUDA)

    def uploaded() -> int:
        uploads.clear()
        ((kernel, _, dealt),) = dealer.deal(work, None, None)
        take(kernel, dealt)
        return len(uploads)

    assert uploaded() == 3
    assert uploaded() == 0
    gradients = work.grads  # kept, so that the new ones lie elsewhere
    work.grads = [g.clone() for g in gradients]
    assert uploaded() == 1
    assert uploaded() == 0
    work.numbers = replaced(work.numbers, betas=(0.5, 0.99), lr=0.2)
    assert uploaded() == 1
    work.numbers = replaced(work.numbers, lr=0.3)
    assert uploaded() == 0


@needs_triton
def test_constant_weights_are_uploaded_once(silent: list, uploads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture takes the table that is there."""
    work = work_of(ADAM, DTYPES["fp32"], [(3,), (B + 1,)])
    kernel = kernel_of(work)

    def step(weights: tuple[float, ...]) -> int:
        uploads.clear()
        kernel.begin(work, locate(work))
        kernel.step_constant(work, weights)
        return len(uploads)

    assert step((0.25, 0.75)) == 4
    assert step((0.25, 0.75)) == 0
    assert step((0.5, 0.5)) == 1
    name, arguments, _ = silent[-1]
    assert name == "triton_adam_mix.step_constant"
    assert arguments[3].tolist() == [0.5, 0.5]
    monkeypatch.setattr(fused_cuda, "capturing", lambda device: True)
    assert step((0.5, 0.5)) == 0
    assert silent[-1][1][3] is arguments[3]
    assert kernel.memory["weights"] in kernel.captured


@needs_triton
def test_gradients_that_move_in_a_capture(silent: list, uploads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph gets a table of its own, in pinned memory that was there before."""
    work = work_of(ADAM, DTYPES["fp32"], [(3,), (B + 1,)])

    def step() -> int:
        """With new gradients; the number of uploads."""
        uploads.clear()
        work.grads = [g.clone() for g in work.grads]
        kernel.begin(work, locate(work))
        take(kernel, work)
        return len(uploads)

    kernel = kernel_of(work)
    assert step() == 3
    old = kernel.memory["table"]
    monkeypatch.setattr(fused_cuda, "capturing", lambda device: True)
    assert step() == 0
    assert "table" not in kernel.memory, "it is not on the device before the graph is replayed"
    kept, *others = kernel.captured
    assert kept.here is old.here
    addresses = kernel.known().table
    assert kept.there[: len(addresses)].tolist() == addresses.tolist()
    assert others == [kernel.memory["blocks"], kernel.memory["numbers"]]
    with pytest.raises(RuntimeError, match="capture an optimizer step only after an ordinary step"):
        step()
    monkeypatch.setattr(fused_cuda, "capturing", lambda device: False)
    assert step() == 1


@needs_triton
def test_counts_of_steps_elsewhere_are_an_error_not_a_crash(silent: list) -> None:
    work = work_of(ADAM, DTYPES["fp32"], [(3,)])
    work.steps = [torch.zeros((), device="meta")]
    with pytest.raises(RuntimeError, match="needs the counts of steps on cpu, but they are on meta"):
        whole_step(work)


# ---------------------------------------------------------------- compiled for real hardware
def argument_type(argument: Any) -> str:
    """As Triton's launcher finds it."""
    names = {torch.bool: "i1", torch.int64: "i64", F32: "fp32", torch.float64: "fp64"}
    if isinstance(argument, Tensor):
        return "*" + names[argument.dtype]
    return "fp32" if isinstance(argument, float) else "i32"


def compiled(name: str, arguments: tuple[Any, ...], options: dict[str, Any], capability: int | str) -> Any:
    """What a launch compiles on NVIDIA's GPUs of a compute ``capability``, or on AMD's of that name."""
    triton = pytest.importorskip("triton", minversion="3.3")
    from triton.backends.compiler import GPUTarget

    module, _, kernel = name.partition(".")
    function = getattr(fused_cuda.load(module), kernel)
    constants = {key: value for key, value in options.items() if key != "num_warps"}
    types = [argument_type(argument) for argument in arguments] + ["constexpr"] * len(constants)
    signature = dict(zip([*function.arg_names[: len(arguments)], *constants], types, strict=True))
    assert set(signature) == set(function.arg_names)
    signature = {key: signature[key] for key in function.arg_names}
    tensors = [i for i, argument in enumerate(arguments) if isinstance(argument, Tensor)]
    aligned = {(i,): [["tt.divisibility", 16]] for i in tensors}
    source = triton.compiler.ASTSource(function, signature, constexprs=constants, attrs=aligned)
    warps = {"num_warps": options.get("num_warps", 4)}
    target = GPUTarget("hip", capability, 64) if isinstance(capability, str) else GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=warps)


def bytes_on_the_stack(kernel: Any, scratch: Path) -> int:
    """What a thread keeps in memory because it has no registers left, by Triton's own tool for compiled code."""
    from triton.backends import nvidia

    path = scratch / "kernel.cubin"
    path.write_bytes(kernel.asm["cubin"])
    command = [Path(nvidia.__file__).parent / "bin" / "cuobjdump", "-res-usage", path]
    usage = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return sum(int(size) for size in re.findall(r"(?:STACK|LOCAL):(\d+)", usage))


HARDWARE = [(rule, dtypes, 90) for rule in ("adam-3-distinct", "adam-5-distinct") for dtypes in ("fp32", "bf16")]
HARDWARE += [("adam-3-distinct", dtypes, 90) for dtypes in ("fp16", "bf16-fp32", "fp32-bf16", "bf16-bf16")]
HARDWARE += [("adam-2", dtypes, 100) for dtypes in ("fp32", "fp32-bf16", "fp32-8bit")]
HARDWARE += [("adam-reset", "fp32-8bit", 90), ("adam-3-distinct", "bf16-8bit", 80)]
HARDWARE += [("sgdm-nesterov", dtypes, 90) for dtypes in ("fp32", "bf16", "fp32-bf16")]
HARDWARE += [("adam-l2", "fp32", 90), ("adam-reset", "bf16-bf16", 80), ("sgdm-1", "fp16", 80)]
HARDWARE += [("rf_adamw", "fp32", 90), ("rf_rmsprop-gradient", "fp32-bf16", 90), ("rf_rmsprop", "bf16", 80)]
HARDWARE += [("adam-gradient", "fp32-bf16", 80), ("adam-gradients", "fp32", 90), ("sgdm-gradient", "bf16-bf16", 90)]


@needs_triton
@pytest.mark.parametrize(("rule", "dtypes", "capability"), HARDWARE)
def test_compiles(silent: list, monkeypatch: Any, tmp_path: Path, rule: str, dtypes: str, capability: int) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    work = work_of(replaced(RULES[rule], stochastic=dtypes in STOCHASTIC), DTYPES[dtypes], [(5,)])
    for type_ in ("switch", "mix", "mix-score"):
        take(kernel_of(work), work, type_)
    module = type(kernel_of(work)).module
    passes = {name: (arguments, options) for name, arguments, options in silent}
    assert list(passes) == [
        *(f"{module}.{kernel}" for kernel in ("tick", "observe", "add_up", "apply")),
        *(f"{module}_mix.{kernel}" for kernel in ("step_constant", "mix")),
    ]
    for name, (arguments, options) in passes.items():
        kernel = compiled(name, arguments, options, capability)
        assert len(kernel.asm["cubin"]) > 1000
        allowed = 8 if dtypes in ("fp16", "bf16-fp32") and name.endswith(".step_constant") else 0
        assert bytes_on_the_stack(kernel, tmp_path) <= allowed, f"{name} spills registers"
        if not name.endswith((".tick", ".add_up")):  # whole blocks travel 16 bytes at a time
            assert re.search(r"ld\.global\S*\.v4\.b32", kernel.asm["ptx"])
            assert re.search(r"st\.global\S*\.v4\.b32", kernel.asm["ptx"])


@needs_triton
@pytest.mark.parametrize(("rule", "dtypes"), [("adam-2", "fp32-8bit"), ("sgdm-nesterov", "bf16")])
def test_compiles_for_amd(silent: list, monkeypatch: Any, tmp_path: Path, rule: str, dtypes: str) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    work = work_of(replaced(RULES[rule], stochastic=dtypes in STOCHASTIC), DTYPES[dtypes], [(5,)])
    for type_ in ("switch", "mix", "mix-score"):
        take(kernel_of(work), work, type_)
    for name, (arguments, options) in {name: passed for name, *passed in silent}.items():
        kernel = compiled(name, arguments, options, "gfx942")
        assert len(kernel.asm["hsaco"]) > 1000
        assert set(re.findall(r"_spill_count: *(\d+)", kernel.asm["amdgcn"])) == {"0"}, f"{name} spills registers"


ROUNDS = {AdaiFamily: ["squares", "add_up"], AdamsFamily: ["left", "unit", "right", "lengths"]}


@needs_triton
@pytest.mark.parametrize(("dtype", "capability"), [(F32, 90), (BF16, 80)])
@pytest.mark.parametrize("kind", ROUNDS)
def test_families_with_rounds_compile(
    silent: list, monkeypatch: Any, tmp_path: Path, kind: Any, dtype: torch.dtype, capability: int
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    family = kind()
    for example in range(len(family.examples)):
        work = selfcheck.start(family, example, torch.device("cpu"), (dtype, dtype, F32, F32))
        kernel, N, K = family.fused["cuda"](family), len(work.values), len(work.numbers.gains)
        for work.scored in (True, False):
            kernel.begin(work, locate(work))
            kernel.tick(work)
            answers: list[Any] = []
            for reduction in family.rounds:
                sums = kernel.observe(work, answers)
                answers.append(sums.sum(dim=0) if reduction.over == "model" else sums)
            kernel.observe(work, answers)
            kernel.mix(work, answers, torch.ones(N, K, dtype=torch.float64), torch.zeros(N, dtype=torch.bool))
    launched = [name.partition(".")[2] for name, _, _ in silent]
    both = ["tick", *ROUNDS[kind], "observe", "add_up", "move", "tick", *ROUNDS[kind], "move"]
    assert launched == both * len(family.examples)
    for name, arguments, options in silent:
        kernel = compiled(name, arguments, options, capability)
        if name.endswith((".squares", ".observe", ".move")):
            assert re.search(r"ld\.global\S*\.v4\.b32", kernel.asm["ptx"])
            assert re.search(r"st\.global\S*\.v4\.b32", kernel.asm["ptx"])


@needs_triton
@pytest.mark.parametrize(("rule", "gradients"), [("adam-2", 0), ("adam-gradient", 1), ("sgdm-3", 1), ("sgdm-1", 0)])
def test_reads_only_what_it_needs(silent: list, monkeypatch: Any, tmp_path: Path, rule: str, gradients: int) -> None:
    """A mix reads gradients only where they are a candidate's moment; a step with constant weights reads all once."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    work = work_of(replaced(RULES[rule], l2=0.0), DTYPES["fp32"], [(5,)])
    buffers, kept = len(work.buffers), sum(place is not None for place in work.numbers.first)
    for type_, arrays in (("mix", 2 + buffers), ("mix-score", 1 + gradients + buffers + kept)):  # kept: at a reset
        take(kernel_of(work), work, type_)
        loads = re.findall(r"ld\.global\S*\.v4\.b32", compiled(*silent[-1], 90).asm["ptx"])
        assert len(loads) == arrays * B // (WARPS * 32) // 4, type_
