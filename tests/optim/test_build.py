"""The library of the fused CPU kernel: from which files it is loaded, and what happens if it can't be built."""

import functools
import hashlib
import logging
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch

import gap_hf
from gap_hf.optim.families.adam import AdamFamily
from gap_hf.optim.kernels import build, cache, fused_cpu
from gap_hf.optim.kernels.adam_cpu import AdamOnCPU
from gap_hf.optim.kernels.foreach import Loop
from gap_hf.optim.kernels.pick import pick as pick_kernel

from .twins import needs_fused

CC = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = needs_fused
IS_ROOT = os.geteuid() == 0
"""Only root can give a file away; ``test_files_of_the_system_are_not_ours`` has something for everybody else."""
F32 = (torch.float32,) * 4
ADAM = AdamFamily()
NOBODY = 65534


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A compiler that is quick because it has built before, and a library that says so when it is loaded."""
    path = tmp_path_factory.mktemp("workshop")
    subprocess.run([CC, build.SOURCE, "-o", path / "built.so", *build.FLAGS], check=True)
    script(
        path / "quick", f'[ "$1" = --version ] && echo quick && exit; echo >> {path}/builds; cp {path}/built.so "$3"'
    )
    loaded = f'#include <fcntl.h>\n__attribute__((constructor)) void run(void) {{ creat("{path}/loaded", 0600); }}'
    command = [CC, "-x", "c", "-", "-shared", "-fPIC", "-o", path / "planted.so"]
    subprocess.run(command, input=loaded, text=True, check=True)
    return path


@pytest.fixture
def fresh(monkeypatch, tmp_path, workshop):
    """The path of a cache directory that is not there yet; nothing is loaded before or after."""
    monkeypatch.setenv("GAP_HF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", str(workshop / "quick"))
    for name in ("builds", "loaded"):
        (workshop / name).unlink(missing_ok=True)
    forget()
    yield tmp_path / "cache"
    forget()


def forget():
    """What another process has not loaded."""
    fused_cpu.load.cache_clear()
    pick_kernel.cache_clear()


@pytest.fixture
def pick(caplog):
    """Pick the kernel as a new process would; the warnings."""

    def picked(expected=AdamOnCPU):
        forget()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "gap_hf"):
            assert pick_kernel(ADAM, None, None, "cpu", F32) is expected
        return [record.getMessage() for record in caplog.records]

    return picked


@functools.cache
def name_of_the_library():
    """In the cache directory, with the quick compiler."""
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAP_HF_CACHE", directory)
        forget()
        pick_kernel(ADAM, None, None, "cpu", F32)
        return next(Path(directory).glob("*.so")).name


def plant(directory: Path, workshop: Path) -> Path:
    """A library that is as good as ours in everything but who can have written it."""
    directory.mkdir(mode=0o700)
    content = (workshop / "planted.so").read_bytes()
    path = directory / name_of_the_library()
    path.write_bytes(content + hashlib.sha256(content).digest())
    path.chmod(0o700)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def count(path: Path) -> int:
    return len(path.read_text()) if path.exists() else 0


# ---------------------------------------------------------------- files that others can have written
def test_new_files_and_directories_are_private(fresh, pick):
    (said,) = pick()
    (library,) = fresh.glob("*.so")
    assert re.fullmatch(rf"building the fused CPU kernel with \S+, once; it is kept as {library}", said)
    assert (mode(fresh), mode(library)) == (0o700, 0o500)
    assert {mode(path) for path in fresh.iterdir()} == {0o500, 0o400}
    assert fused_cpu.load().whereabouts == f"kept as {library}"


def link(path):
    path.symlink_to(path.rename(path.parent.parent / "elsewhere.so"))


def pipe(path):
    path.unlink()
    os.mkfifo(path, 0o700)


def give_away(path):
    os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        *[pytest.param(give_away, r"another user \(uid 65534\)", id="owner")] * IS_ROOT,
        pytest.param(lambda path: path.chmod(0o777), r"other users can write to \S+ \(mode 0777\)", id="everybody"),
        pytest.param(lambda path: path.chmod(0o720), r"other users can write to \S+ \(mode 0720\)", id="group"),
        pytest.param(link, "symbolic link", id="link"),
        pytest.param(pipe, "not a regular file", id="pipe"),
    ],
)
def test_a_planted_file_is_not_loaded_but_replaced(fresh, pick, workshop, spoil, reason):
    planted = plant(fresh, workshop)
    spoil(planted)
    said = pick()
    assert not (workshop / "loaded").exists()
    assert len(said) == 1
    assert re.search(f"anew with .* because the cached one is refused: .*{reason}", said[0])
    assert (mode(planted), planted.lstat().st_uid) == (0o500, os.geteuid())
    assert pick() == []


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        *[pytest.param(give_away, r"uid 65534\); set GAP_HF_CACHE to a directory", id="owner")] * IS_ROOT,
        pytest.param(
            lambda path: path.chmod(0o777), r"\(mode 0777\); run chmod go-w \S+, or set GAP_HF_CACHE", id="everybody"
        ),
        pytest.param(
            lambda path: path.chmod(0o770), r"\(mode 0770\); run chmod go-w \S+, or set GAP_HF_CACHE", id="group"
        ),
    ],
)
def test_nothing_is_loaded_from_a_directory_that_others_can_write(
    fresh, pick, workshop, monkeypatch, tmp_path, spoil, mend
):
    planted = plant(fresh, workshop)
    spoil(fresh)
    content = planted.read_bytes()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    said = pick()
    assert not (workshop / "loaded").exists()
    assert len(said) == 1
    assert re.search(f"for this process alone: .*{mend}", said[0])
    assert planted.read_bytes() == content
    assert list(fresh.iterdir()) == [planted]
    assert list((tmp_path / "tmp").iterdir()) == []
    assert "for this process alone" in fused_cpu.load().whereabouts


def test_a_directory_like_tmp_will_do(fresh, pick, workshop):
    """The sticky bit keeps others from touching our files."""
    fresh.mkdir()
    fresh.chmod(0o1777)
    assert len(pick()) == 1
    assert pick() == []
    assert count(workshop / "builds") == 1


def test_the_directory_may_be_a_link(fresh, pick, workshop):
    fresh.with_name("real").mkdir()
    fresh.symlink_to(fresh.with_name("real"))
    assert len(pick()) == 1
    fresh.with_name("real").chmod(0o777)
    assert "mode 0777" in pick()[0]
    assert count(workshop / "builds") == 2


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:20000], lambda content: b"\0" + content[1:], lambda _: b""],
    ids=["cut off", "garbage", "empty"],
)
def test_a_damaged_file_is_replaced(fresh, pick, damage):
    pick()
    (library,) = fresh.glob("*.so")
    library.chmod(0o700)
    good = library.read_bytes()
    library.write_bytes(damage(good))
    (said,) = pick()
    assert f"because the cached one is refused: {library} is damaged" in said
    assert library.read_bytes() == good


@pytest.mark.parametrize("directory", ["/dev/null", "/dev/null/cache", "~no-such-user/cache"])
def test_without_a_cache_directory(fresh, pick, monkeypatch, directory):
    monkeypatch.setenv("GAP_HF_CACHE", directory)
    (said,) = pick()
    assert re.search(r"for this process alone: there is no cache directory \(.*\); set GAP_HF_CACHE to one", said)


def test_what_cannot_be_kept_is_used_all_the_same(fresh, pick, workshop):
    (fresh / name_of_the_library() / "in the way").mkdir(parents=True)
    assert "serves this process alone: " in pick()[-1]
    assert count(workshop / "builds") == 1


def test_files_of_the_system_are_not_ours():
    """Every user can try this one: root gives a file away, others look at one of root's."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path("/etc/passwd")
        if IS_ROOT:
            path = Path(directory) / "file"
            path.touch()
            give_away(path)
        with pytest.raises(PermissionError, match="belongs to another user"), cache.reading(path):
            pass


def test_several_at_once(fresh, workshop):
    with ThreadPoolExecutor(4) as pool:
        libraries = [future.result() for future in [pool.submit(build.library) for _ in range(4)]]
    assert {library.checksum for library in libraries} == {build.library().checksum}
    assert len(list(fresh.iterdir())) == 1


# ---------------------------------------------------------------- compilers that fail
def is_ended(process: int) -> bool:
    """Whether it ends within ten seconds: the signal may still be on its way, and nobody may wait for the process."""
    for _ in range(1000):
        if not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("at", ["--version", "-o"])
def test_a_compiler_that_hangs_is_ended_and_the_loop_takes_over(fresh, pick, monkeypatch, tmp_path, at):
    monkeypatch.setattr(build, "TIME_LIMIT", 1.0)
    hang = f'case "$*" in *{at}*) sleep 600 & echo $! > {tmp_path}/child; wait;; esac'
    monkeypatch.setenv("CC", str(script(tmp_path / "hanging", hang)))
    said = pick(Loop)
    assert re.search(
        rf"no fused kernel.*did not finish within 1 s and was ended \(.*hanging .*{at}.*\); set CC", said[-1]
    )
    assert is_ended(int((tmp_path / "child").read_text()))
    ps = [torch.ones(3, requires_grad=True)]
    optimizer = gap_hf.GapAdamW(ps)
    ps[0].grad = torch.ones(3)
    optimizer.step()
    assert (ps[0] < 1).all()


def test_a_library_that_lacks_functions(fresh, pick, monkeypatch, tmp_path):
    empty = f'[ "$1" = --version ] || echo "int x;" | {CC} -x c - -shared -fPIC -o "$3"'
    monkeypatch.setenv("CC", str(script(tmp_path / "empty", empty)))
    assert re.search(r"no fused kernel.* lacks the function gap_has_float16", pick(Loop)[-1])
    with pytest.raises(RuntimeError, match=r"fused=True can't be done: .* lacks the function gap_has_float16"):
        pick_kernel(ADAM, None, True, "cpu", F32)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\n", "reported success, but has built nothing"),
        ("#!/bin/sh\necho nonsense > $3\n", "can't be loaded: .*(invalid ELF header|file too short)"),
        ("#!/no/such/shell\n", "can't be started: .*No such file"),
        ("#!/bin/sh\necho $'\\xff' >&2; exit 1\n", "could not build"),
    ],
)
def test_other_compilers_that_fail(fresh, pick, monkeypatch, tmp_path, text, reason):
    path = script(tmp_path / "failing", "")
    path.write_text(text)
    monkeypatch.setenv("CC", str(path))
    assert re.search(f"no fused kernel.*{reason}", pick(Loop)[-1], re.DOTALL)


def test_all_functions_are_looked_for():
    """As many arguments as the sources say."""
    declaration = re.compile(r"^(void|int) (gap_\w+|EXPORTED\(\w+\))\(([^)]*)\)", re.MULTILINE)
    declared = [found for path in build.SOURCE.parent.glob("*.[ch]") for found in declaration.findall(path.read_text())]
    found = {}
    for result, name, listed in declared:
        generic = re.fullmatch(r"EXPORTED\((\w+)\)", name)
        for full in (
            [f"gap_{family}_{generic[1]}" for family in ("adai", "adam", "adams", "rf_rmsprop", "sgdm")]
            if generic
            else [name]
        ):
            found[full] = (result, 0 if listed == "void" else len(listed.split(",")))
    results = {None: "void", build.c_int: "int"}
    assert found == {name: (results[kind], len(types)) for name, (kind, types) in build.FUNCTIONS.items()}
