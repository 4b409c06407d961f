"""The fused CUDA kernels in Triton's interpreter, which runs them on the CPU: compared with the loop."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gap_hf.optim.families.adai import AdaiNumbers
from gap_hf.optim.families.adams import AdamsNumbers
from gap_hf.optim.families.moments import MomentNumbers
from gap_hf.optim.families.rf_rmsprop import RFRMSpropNumbers
from gap_hf.optim.families.sgdm import SGDMNumbers
from gap_hf.optim.kernels import fused_cuda, selfcheck
from gap_hf.optim.kernels.foreach import Loop

from .cuda import (
    ADAM,
    BF16,
    CASES,
    CONSTANT_CASES,
    DTYPES,
    F32,
    FAMILIES,
    INTERPRETED,
    RULES,
    SGDM,
    SHAPES,
    STOCHASTIC,
    B,
    Numbers,
    columns,
    kernel_of,
    needs_triton,
    new_gradients,
    replaced,
    step_both,
    step_constant_both,
    take,
    work_of,
)
from .cuda_optimizers import OPTIONS, TYPES, choices_of, gradients, launches_of, options_of, parameters, same_weights


def exact_conversion(convert: Callable) -> Callable:
    """Triton's interpreter cuts floats off to bfloat16; GPUs round them, and so does this."""

    def rounded(data: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if target.name == "bf16":
            return torch.from_numpy(np.array(data)).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return convert(data, source, target, mode)

    return rounded


MODULES = (
    "triton_common",
    "triton_eight_bit",
    "triton_adai",
    "triton_adams_power",
    "triton_adams",
    *(f"triton_{f}{mix}" for f in ("adam", "rf_rmsprop", "sgdm") for mix in ("", "_mix")),
)
FIRST = r"an element of (exp_avg|momentum_buffer)_\d is"
MISTAKES = [
    ("triton_adam", "p * keep - rate *", "p * keep + rate *", "a new value is"),
    ("triton_common", "1.0 - tl.exp(t", "1.0 - tl.exp(1.0 + t", "a sum is"),
    ("triton_common", "0x846CA68B", "0x846CA68C", "rounded otherwise"),
    # candidates without a buffer
    ("triton_adam", "scored = g", "scored = 2.0 * g", "a sum is"),
    ("triton_sgdm", "stored = undampened(t, rest) * g", "stored = g", "a sum is"),
    ("triton_common", "m = factor * filtered", "m = 2.0 * filtered", "a new value is"),
    ("triton_common", "2 + place, i", "2 + j, i", "a new value is"),
    # mixes
    ("triton_adam_mix", "tl.div_rn(total", "tl.div_rn(-total", "a new value is"),
    ("triton_adam_mix", "weights + j * weight_stride", "weights", "a new value is"),
    ("triton_adam_mix", "weights + i * row_stride", "weights", "a new value is"),
    ("triton_adam_mix", "numbers + 2 * K + j", "numbers + 2 * K", "a new value is"),
    ("triton_adam_mix", "1.0 - lr * decay", "1.0 + lr * decay", "a new value is"),
    ("triton_adam_mix", "if due:", "if not due:", FIRST),
    ("triton_adam_mix", "MAXIMIZE, True, STOCHASTIC", "MAXIMIZE, False, STOCHASTIC", FIRST),
    ("triton_sgdm_mix", "p - rate", "p + rate", "a new value is"),
    ("triton_sgdm_mix", "m = g + tl.load", "m = tl.load", "a new value is"),
    ("triton_sgdm_mix", "weights + j * weight_stride", "weights", "a new value is"),
    ("triton_sgdm_mix", "n, 2 + c", "n, 2", FIRST),
    ("triton_sgdm_mix", "NESTEROV, True, STOCHASTIC", "NESTEROV, False, STOCHASTIC", FIRST),
    ("triton_rf_rmsprop", "v + eps) + decay", "v + eps) - decay", FIRST),
    ("triton_rf_rmsprop", "rest * g * g", "rest * g", FIRST),
    ("triton_rf_rmsprop", "if where == F", "if where != F", "a new value is"),
    ("triton_rf_rmsprop_mix", "p - rate", "p + rate", "a new value is"),
    ("triton_adai", "v.to(tl.float64)) / correction", "v.to(tl.float64))", "a sum is"),
    ("triton_adai", "rest > 1.0, 1.0", "rest > 0.5, 0.5", FIRST),
    ("triton_adai", "rest < least, least", "rest < least, 0.0", r"an element of \w+ is"),
    ("triton_adai", "rest, 2.0 - rest", "rest, 2.0 + rest", "a sum is"),
    ("triton_adai", "* (1.0 - rest)\n    write", "\n    write", "an element of beta1_prod_0 is"),
    ("triton_adai", "p * (1.0 - lr", "p * (1.0 + lr", "a new value is"),
    ("triton_adai", "numbers + K + j", "numbers + K", "a new value is"),
    ("triton_adai", "if due:", "if not due:", FIRST),
    ("triton_adams_power", "squares += x * x\n    norm", "squares += x\n    norm", "an element of a vector is"),
    ("triton_adams_power", "    tl.store(norm", "    squares *= 2\n    tl.store(norm", "an element of left_vector is"),
    ("triton_adams_power", "b += 1", "b += 2", "an element of a vector is"),
    ("triton_adams_power", "out + r, total", "out + r, 2 * total", "an element of a vector is"),
    ("triton_adams", "1.57079633 - r", "1.57079633 + r", "a sum is"),
    ("triton_adams", "tl.where(m < 0, -r, r)", "r", "a sum is"),
    ("triton_adams", "(start + e) % C\n", "e % C\n", "a new value is"),
    (
        "triton_adams",
        "tl.load(numbers + 2 * K + j), t)\n        if",
        "tl.load(numbers + 2 * K), t)\n        if",
        "a new value is",
    ),
    ("triton_adams", "lr * vector_decay", "lr * decay", "a new value is"),
    ("triton_adams", "if due:", "if not due:", FIRST),
]


WHOLE = [(name, type_) for name in ("adam-gradient", "sgdm-gradient") for type_ in list(TYPES)[:6]]
WHOLE += [(name, type_) for name in OPTIONS for type_ in list(TYPES)[:4] if (name, type_) not in WHOLE]
WHOLE += [("adam-gradient", type_) for type_ in list(TYPES)[6:]]


class Launches:
    """Names of the kernels that are launched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        cls = type(fused_cuda.load().tick)
        monkeypatch.setattr(cls, "__getitem__", self.counting(cls.__getitem__))

    def counting(self, launcher: Callable) -> Callable:
        def counted(kernel: Any, grid: tuple[int, ...]) -> Any:
            self.names.append(kernel.__name__)
            return launcher(kernel, grid)

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
        if dtypes == "fp16" and isinstance(numbers, MomentNumbers):  # small v are 0 in it; the step must stay finite
            numbers = replaced(numbers, eps=1e-2)
        work = work_of(numbers, DTYPES[dtypes], SHAPES)
        for t in range(4):
            step_both(kernel_of(work), work, t, mixes=t >= 2)

    @pytest.mark.parametrize(("rule", "dtypes"), CONSTANT_CASES)
    def test_a_step_with_constant_weights(self, rule: str, dtypes: str) -> None:
        numbers = replaced(RULES[rule], stochastic=dtypes in STOCHASTIC)
        if dtypes == "fp16" and isinstance(numbers, MomentNumbers):  # as above
            numbers = replaced(numbers, eps=1e-2)
        work = work_of(numbers, DTYPES[dtypes], SHAPES)
        for t in range(2):
            step_constant_both(kernel_of(work), work, t)

    @pytest.mark.parametrize("dtypes", ["fp32", "bf16"])
    def test_memory_that_is_not_aligned(self, dtypes: str) -> None:
        work = work_of(ADAM, DTYPES[dtypes], [(B,), (7,)], offset=1)
        for t in range(2):
            step_both(kernel_of(work), work, t, mixes=t == 1)
        step_constant_both(kernel_of(work), work, 2)

    def test_many_blocks_are_added_up_in_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fused_cuda, "CHUNK", 2)
        work = work_of(ADAM, DTYPES["fp32"], [(4 * B + 1,), (5,), (2 * B,)])
        step_both(kernel_of(work), work, 0)

    @pytest.mark.parametrize("numbers", [ADAM, SGDM], ids=["adam", "sgdm"])
    def test_learning_rate_in_a_tensor(self, numbers: Numbers) -> None:
        lr = torch.tensor(0.1)
        work = work_of(replaced(numbers, lr=lr), DTYPES["fp32"], SHAPES[:3])
        for t in range(2):
            step_both(kernel_of(work), work, t, mixes=t == 1)
            lr *= 0.5
        step_constant_both(kernel_of(work), work, 2)

    def test_a_count_of_steps_is_shared(self) -> None:
        work = work_of(ADAM, DTYPES["fp32"], [(4,)] * 3)
        work.steps[2] = work.steps[0]
        for _ in range(3):
            kernel_of(work).tick(work)
        assert [step.item() for step in work.steps] == [3, 3, 3]

    def test_one_choice_for_all(self) -> None:
        """``type='switch'`` hands one number over, as often as there are fragments."""
        works = [work_of(ADAM, DTYPES["fp32"], [(5,)] * 3) for _ in range(2)]
        for work, choices in zip(works, (torch.tensor(1).expand(3), torch.tensor([1, 1, 1])), strict=True):
            new_gradients(work, 0)
            kernel = kernel_of(work)
            kernel.tick(work)
            kernel.observe(work, [])
            kernel.apply(work, [], choices, torch.tensor(True).expand(3))
        for a, b in zip(columns(works[0]), columns(works[1]), strict=True):
            assert all(map(torch.equal, a, b))

    @pytest.mark.parametrize("numbers", [ADAM, SGDM], ids=["adam", "sgdm"])
    def test_weights_wherever_they_lie(self, numbers: Numbers) -> None:
        """``type='mix'`` hands one row over, as often as there are fragments."""
        works = [work_of(numbers, DTYPES["fp32"], [(5,)] * 3) for _ in range(3)]
        row = torch.tensor([0.25, 0.75], dtype=torch.float64)
        rows = row.repeat(3, 1)
        for work, weights in zip(works, (rows, row.expand(3, 2), rows.T.contiguous().T), strict=True):
            new_gradients(work, 0)
            kernel = kernel_of(work)
            kernel.tick(work)
            kernel.observe(work, [])
            kernel.mix(work, [], weights, torch.tensor(True).expand(3))
        for others in works[1:]:
            for a, b in zip(columns(works[0]), columns(others), strict=True):
                assert all(map(torch.equal, a, b))

    def test_nothing_but_empty_fragments(self) -> None:
        work = work_of(ADAM, DTYPES["fp32"], [(0,), (0, 3)])
        step_both(kernel_of(work), work, 0)
        step_constant_both(kernel_of(work), work, 1)

    @pytest.mark.parametrize(("name", "type_"), WHOLE)
    def test_a_whole_optimizer(self, monkeypatch: pytest.MonkeyPatch, name: str, type_: str) -> None:
        cls, options = options_of(name, type_)
        launches = Launches(monkeypatch)
        shapes = [(4, 5), (3,), (0,), ()]
        both = [parameters(shapes, "cpu") for _ in range(2)]
        optimizers = [cls(both[0], capturable=True, **options), cls(both[1], foreach=False, **options)]
        kernel = {None: cls.family.fused["cuda"], False: Loop}  # by the flag foreach
        monkeypatch.setattr("gap_hf.optim.kernels.deal.pick", lambda family, foreach, *_: kernel[foreach])
        for t in range(14, 26):
            launches.names.clear()
            for params, optimizer in zip(both, optimizers, strict=True):
                for p, g in zip(params, gradients(shapes, t), strict=True):
                    p.grad = g
                optimizer.step()
            assert launches.names == launches_of(type_)
            assert choices_of(optimizers[0]) == choices_of(optimizers[1]), t
            assert optimizers[0].last_resets == optimizers[1].last_resets, t
            same_weights(optimizers)
        for p, q in zip(*both, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("numbers", [ADAM, SGDM], ids=["adam", "sgdm"])
    @pytest.mark.parametrize("type_", ["switch", "mix", "mix-score"])
    def test_launches_are_constant_in_the_number_of_tensors(
        self, monkeypatch: pytest.MonkeyPatch, numbers: Numbers, type_: str
    ) -> None:
        launches = Launches(monkeypatch)
        for n in (3, 60):
            work = work_of(numbers, DTYPES["fp32"], [(2,)] * n)
            launches.names.clear()
            take(kernel_of(work), work, type_)
            assert launches.names == launches_of(type_)

    def test_a_value_that_is_not_finite_reaches_the_sums(self) -> None:
        work = work_of(ADAM, DTYPES["fp32"], [(9,), (B,)])
        new_gradients(work, 0)
        work.grads[0][4] = torch.nan
        kernel = kernel_of(work)
        kernel.tick(work)
        sums = kernel.observe(work, [])
        assert sums[0].isnan().all()
        assert sums[1].isfinite().all()

    @pytest.mark.parametrize(
        ("numbers", "dtypes"),
        [
            (AdaiNumbers, (BF16, BF16, F32, F32)),
            (AdamsNumbers, (BF16, BF16, F32, F32)),
            (MomentNumbers, (F32,) * 4),
            (SGDMNumbers, (F32, F32, BF16)),
            (RFRMSpropNumbers, (F32, F32, BF16, F32)),
        ],
        ids=["adai", "adams", "adam", "sgdm", "rf_rmsprop"],
    )
    def test_passes_the_check_before_its_use(self, numbers: Any, dtypes: tuple[torch.dtype, ...]) -> None:
        family = FAMILIES[numbers]
        selfcheck.check(family.fused["cuda"](family), torch.device("cpu"), dtypes)

    @pytest.mark.parametrize(("module", "right", "mistaken", "what"), MISTAKES)
    def test_mistakes_do_not(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, right: str, mistaken: str, what: str
    ) -> None:
        package = tmp_path / "wrong_kernels"
        package.mkdir()
        (package / "__init__.py").touch()
        for name in MODULES:
            source = Path(fused_cuda.load(name).__file__).read_text()
            if name == module:
                assert right in source
                source = source.replace(right, mistaken)
            (package / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.startswith("wrong_kernels")]:
            monkeypatch.delitem(sys.modules, name)
        wrong = {name: importlib.import_module(f"wrong_kernels.{name}") for name in MODULES}
        monkeypatch.setattr(fused_cuda, "load", lambda name="triton_common": wrong[name])
        kinds = {"adai": AdaiNumbers, "adams": AdamsNumbers, "sgdm": SGDMNumbers, "rmsprop": RFRMSpropNumbers}
        family = FAMILIES[next((kinds[name] for name in kinds if name in module), MomentNumbers)]
        dtypes = (F32,) * 3 if "sgdm" in module else (F32, F32, BF16 if what == "rounded otherwise" else F32, F32)
        with pytest.raises(selfcheck.Disagreement, match=what):
            selfcheck.check(family.fused["cuda"](family), torch.device("cpu"), dtypes)


@needs_triton
@pytest.mark.parametrize("some", ["as_the_loop", "optimizer", "not as_the_loop and not optimizer"])
def test_in_the_interpreter(some: str) -> None:
    """Triton decides when it is imported whether it interprets: in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::TestInTheInterpreter"]
    command += ["-k", some]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout
