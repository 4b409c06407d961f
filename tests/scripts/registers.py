"""What Triton's compiler makes of Adam's kernels: registers, bytes on the stack, 16-byte loads. It needs no GPU.

python -m tests.scripts.registers
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from gap_hf.optim.kernels import fused_cuda

from ..optim.cuda import DTYPES, RULES, STOCHASTIC, kernel_of, replaced, take, work_of
from ..optim.test_fused_cuda_launches import compiled

CASES = [
    ("adam-2", dtypes, capability) for capability in (80, 90, 100) for dtypes in ("fp32", "fp32-bf16", "fp32-8bit")
]


def usage(kernel: Any, scratch: Path) -> str:
    """The line of registers and stack that ``cuobjdump`` prints."""
    from triton.backends import nvidia

    path = scratch / "kernel.cubin"
    path.write_bytes(kernel.asm["cubin"])
    command = [Path(nvidia.__file__).parent / "bin" / "cuobjdump", "-res-usage", path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return next(line for line in printed.splitlines() if "REG:" in line)


def main() -> None:
    """Compile and print."""
    launched: dict[str, tuple[Any, Any]] = {}
    fused_cuda.launch = lambda work, module, name, grid, *arguments, **options: launched.update(
        {f"{module}.{name}": (arguments, options)}
    )
    for rule, dtypes, capability in CASES:
        launched.clear()
        work = work_of(replaced(RULES[rule], stochastic=dtypes in STOCHASTIC), DTYPES[dtypes], [(5,)])
        for type_ in ("switch", "mix", "mix-score"):
            take(kernel_of(work), work, type_)
        for name, (arguments, options) in launched.items():
            if name.endswith((".tick", ".add_up")):
                continue
            kernel = compiled(name, arguments, options, capability)
            with tempfile.TemporaryDirectory() as scratch:
                found = dict(re.findall(r"(REG|STACK):(\d+)", usage(kernel, Path(scratch))))
            loads = len(re.findall(r"ld\.global\S*\.v4\.b32", kernel.asm["ptx"]))
            said = f"{found['REG']:>4} registers, {found['STACK']} bytes of stack, {loads} loads of 16 bytes"
            print(f"{capability / 10} {dtypes:10} {name:32} {said}")


if __name__ == "__main__":
    main()
