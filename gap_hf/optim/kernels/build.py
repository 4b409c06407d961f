"""The library of the fused CPU kernel: ``fused_cpu.c``, built once with the machine's C compiler and cached.

It is plain C behind ctypes, so that one second of ``cc`` is all it takes: no torch headers, no C++, no build tool, and
nothing to rebuild for another Python or torch. Its threads are those of the OpenMP library that torch has loaded.
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

from . import cache

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("fused_cpu.c")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC", "-lm")

FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "gap_has_float16": (c_int, ()),
    "gap_tick": (None, (c_void_p, c_int64)),
    "gap_observe": (None, (c_void_p,) * 2),
    "gap_apply": (None, (c_void_p,) * 3),
    "gap_step": (None, (c_void_p,) * 5),
    "gap_step_for_all": (None, (c_void_p,) * 7),
}
"""What the library must have: by name, the type of the result and those of the arguments."""

TIME_LIMIT = 120.0
"""Seconds that the compiler may take; it takes about one."""


class Unavailable(RuntimeError):
    """Why a kernel can't be had on this machine."""


@functools.cache
def load() -> Any:
    """The library, or ``Unavailable`` that says why there is none.

    Its attribute ``checksum`` tells it from others, and ``whereabouts`` says where it is kept, or why it is not.
    """
    try:
        return library()
    except Unavailable as error:
        return error
    except OSError as error:
        return Unavailable(f"the fused CPU kernel can't be loaded: {error}")


def library() -> Any:
    """The library from the cache, built unless it is there.

    Raises:
        Unavailable: no compiler, or it fails.
        OSError: what was built can't be loaded.
    """
    if platform.system() != "Linux":
        raise Unavailable(f"the fused CPU kernel is built on Linux only, this is {platform.system()}")
    cc = compiler()
    name = name_for(cc)
    try:
        path = cache.directory() / name
    except OSError as error:
        logger.warning("building the fused CPU kernel with %s, for this process alone: %s", cc, error)
        return load_uncached(built(cc), error)
    try:
        return load_file(path)
    except FileNotFoundError:
        logger.warning("building the fused CPU kernel with %s, once; it is kept as %s", cc, path)
    except OSError as error:
        logger.warning("building the fused CPU kernel anew with %s, because the cached one is refused: %s", cc, error)
    content = built(cc)
    try:
        cache.write(path, content, 0o500)
        return load_file(path)
    except OSError as error:
        logger.warning("the fused CPU kernel that was built serves this process alone: %s", error)
        return load_uncached(content, error)


# ---------------------------------------------------------------- building


def compiler() -> str:
    """The C compiler: ``$CC``, else the first of cc, gcc, clang.

    Raises:
        Unavailable: there is none.
    """
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    for name in names:
        if path := shutil.which(name):
            return path
    raise Unavailable(f"no C compiler was found (looked for {', '.join(names)}); install gcc or clang, or set CC")


@functools.cache
def processor() -> str:
    """What ``-march=native`` depends on: a cache directory may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features", "CPU part")
    return "\n".join(line for line in lines if line.startswith(kept))


def name_for(cc: str) -> str:
    """The name of the library's file: another one for another source, compiler or processor."""
    version = finished([cc, "--version"]).stdout.partition("\n")[0]
    key = "\0".join([SOURCE.read_text(), *FLAGS, version, platform.machine(), processor()])
    return f"fused_cpu-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"


def built(cc: str) -> bytes:
    """The content of the library's file, as ``cc`` builds it.

    Raises:
        Unavailable: it fails.
    """
    with tempfile.TemporaryDirectory(prefix="gap_hf-") as private:
        target = Path(private) / "fused_cpu.so"
        done = finished([cc, str(SOURCE), "-o", str(target), *FLAGS])
        if done.returncode:
            raise Unavailable(f"{cc} could not build {SOURCE}: {done.stderr.strip()[-2000:]}")
        if not target.exists():
            raise Unavailable(f"{cc} reported success, but has built nothing from {SOURCE}")
        return sealed(target.read_bytes())


def finished(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end.

    Raises:
        Unavailable: it can't be started, or takes longer than ``TIME_LIMIT``.
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
    """``content`` and its checksum, which the loader ignores. A library that is cut off may crash the process."""
    return content + hashlib.sha256(content).digest()


def load_file(path: Path) -> Any:
    """The library in the file ``path``.

    Raises:
        OSError: it can't be read or loaded, another user can have written it, it is damaged or lacks a function.
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
    """The library of ``content``, from a file that nothing is left of; ``reason`` is why.

    Raises:
        OSError: it can't be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="gap_hf-") as private:
        path = Path(private) / "fused_cpu.so"
        cache.write(path, content, 0o500)
        found = load_file(path)
    found.whereabouts = f"built for this process alone: {reason}"
    return found
