"""The library of the fused CPU kernels: ``c/fused_cpu.c``, built once with the machine's C compiler and cached.

It is plain C called through ctypes, so one second of ``cc`` is all it takes: no torch headers, no C++, no build tool,
and nothing to rebuild for another Python or torch. It runs on the threads of the OpenMP library that torch has loaded.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

from . import cache, vectors

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "c" / "fused_cpu.c"
"""What is compiled; it includes the headers beside it."""
FLAGS = (
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-lm",
)
"""How it is compiled. Products and sums are not contracted: which of them a compiler fuses depends on the code around
them, and a step would have other bits where a loop is written out for it, or on another processor."""

FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "gap_has_float16": (c_int, ()),
    "gap_tick": (None, (c_void_p, c_int64)),
    **{f"gap_adams_{name}": (c_int, (c_void_p,)) for name in ("iterate", "left", "right", "settle")},
    **{
        f"gap_{family}_{name}": (c_int, (c_void_p,) * count)
        for family in ("adai", "adam", "adams", "rf_rmsprop", "sgdm")
        for name, count in {"observe": 2, "apply": 4, "step_constant": 1, "step": 6, "step_for_all": 8}.items()
    },
}
"""The functions that the library must have: by name, the type of the result and those of the arguments."""

TIME_LIMIT = 120.0
"""Seconds that the compiler may take; it takes about one."""


class Unavailable(RuntimeError):
    """The error for a kernel that can't be had on this machine; the message says why."""


@functools.cache
def load() -> Any:
    """Return the library, or an ``Unavailable`` that says why there is none.

    The library's ``checksum`` identifies it, and ``whereabouts`` says where it is kept, or why it is not.
    """
    try:
        return library()
    except Unavailable as error:
        return error
    except OSError as error:
        return Unavailable(f"the fused CPU kernel can't be loaded: {error}")


def library() -> Any:
    """Return the library from the cache; it is built if it is not there.

    Raises:
        Unavailable: there is no compiler, or it fails, or ``GAP_HF_VECTORS`` asks for what is not there.
        OSError: the library that was built can't be loaded.
    """
    if platform.system() != "Linux":
        raise Unavailable(f"the fused CPU kernel is built on Linux only, this is {platform.system()}")
    cc = compiler()
    try:
        kind = vectors.chosen()
    except ValueError as error:
        raise Unavailable(str(error)) from error
    flags = (*FLAGS, *kind.flags)
    name = name_for(cc, flags)
    try:
        path = cache.directory() / name
    except OSError as error:
        logger.warning("building the fused CPU kernel with %s, for this process alone: %s", cc, error)
        return load_uncached(built(cc, flags), error)
    try:
        return load_file(path)
    except FileNotFoundError:
        logger.warning("building the fused CPU kernel with %s, once; it is kept as %s", cc, path)
    except OSError as error:
        logger.warning("building the fused CPU kernel anew with %s, because the cached one is refused: %s", cc, error)
    content = built(cc, flags)
    try:
        cache.write(path, content, 0o500)
        return load_file(path)
    except OSError as error:
        logger.warning("the fused CPU kernel that was built serves this process alone: %s", error)
        return load_uncached(content, error)


# ---------------------------------------------------------------- building


def compiler() -> str:
    """Find the C compiler: ``$CC``, else the first of cc, gcc, clang.

    Raises:
        Unavailable: there is no compiler.
    """
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    for name in names:
        if path := shutil.which(name):
            return path
    raise Unavailable(f"no C compiler was found (looked for {', '.join(names)}); install gcc or clang, or set CC")


@functools.cache
def processor() -> str:
    """Describe what ``-march=native`` depends on, since several machines may share a cache directory."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features", "CPU part")
    return "\n".join(line for line in lines if line.startswith(kept))


def name_for(cc: str, flags: tuple[str, ...]) -> str:
    """The name of the library's file, which is different for each source, set of flags, compiler and processor."""
    version = finished([cc, "--version"]).stdout.partition("\n")[0]
    code = [path.read_text() for path in sorted(SOURCE.parent.glob("*.[ch]"))]
    key = "\0".join([*code, *flags, version, platform.machine(), processor()])
    return f"fused_cpu-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"


def built(cc: str, flags: tuple[str, ...]) -> bytes:
    """Build the library with ``cc``, and return the content of its file.

    Raises:
        Unavailable: the compiler fails.
    """
    with tempfile.TemporaryDirectory(prefix="gap_hf-") as private:
        target = Path(private) / "fused_cpu.so"
        done = finished([cc, str(SOURCE), "-o", str(target), *flags])
        if done.returncode:
            raise Unavailable(f"{cc} could not build {SOURCE}: {done.stderr.strip()[-2000:]}")
        if not target.exists():
            raise Unavailable(f"{cc} reported success, but has built nothing from {SOURCE}")
        return sealed(target.read_bytes())


def finished(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run ``command`` and wait until it ends.

    Raises:
        Unavailable: the command can't be started, or takes longer than ``TIME_LIMIT``.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # so that its own children can be ended with it
        )
    except OSError as error:
        raise Unavailable(f"the C compiler {command[0]} can't be started: {error}") from error
    with process:
        try:
            stdout, stderr = process.communicate(timeout=TIME_LIMIT)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise Unavailable(
                f"the C compiler did not finish within {TIME_LIMIT:g} s and was ended ({' '.join(command)}); set CC to "
                "one that works"
            ) from error
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


# ---------------------------------------------------------------- loading


def sealed(content: bytes) -> bytes:
    """Append a checksum to ``content``, which the loader ignores: a library that is cut off may crash the process."""
    return content + hashlib.sha256(content).digest()


def load_file(path: Path) -> Any:
    """Load the library in the file ``path``.

    Raises:
        OSError: the file can't be read or loaded, another user could have written it, it is damaged, or it lacks a
            function.
    """
    with cache.reading(path) as file:
        content = file.read()
        if sealed(content[:-32]) != content:
            raise OSError(f"{path} is damaged")
        # Stays open for good: the loader knows a library by this name, and would take one for the other if the
        # descriptor's number came up again.
        descriptor = os.dup(file.fileno())
    try:
        found: Any = ctypes.CDLL(f"/proc/self/fd/{descriptor}")  # the very file that was read
    except OSError:
        os.close(descriptor)
        raise
    for name, (result, arguments) in FUNCTIONS.items():
        if not hasattr(found, name):
            raise OSError(f"the library lacks the function {name}")
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    found.checksum, found.whereabouts = content[-32:].hex(), f"kept as {path}"
    return found


def load_uncached(content: bytes, reason: OSError) -> Any:
    """Load the library in ``content`` from a file that is deleted at once; ``reason`` says why it is not kept.

    Raises:
        OSError: the library can't be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="gap_hf-") as private:
        path = Path(private) / "fused_cpu.so"
        cache.write(path, content, 0o500)
        found = load_file(path)
    found.whereabouts = f"built for this process alone: {reason}"
    return found
