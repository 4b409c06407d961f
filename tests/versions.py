"""Run the tests that concern a package under several versions of it, and write down what passed.

    python -m tests.versions deepspeed                 # the listed versions; or transformers, or torch
    python -m tests.versions deepspeed 0.18.4 0.19.0   # or these

Each version is installed into a directory of its own, from which Python takes it before the environment's; everything
else stays as it is pinned. What passed goes into ``docs/versions.csv``, and a failure takes its version out of it.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from packaging.version import Version
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
PASSED = ROOT / "docs/versions.csv"


class Package(NamedTuple):
    """A package and what is tested with it.

    Attributes:
        versions: the oldest that is supported, the newest, and some between.
        tests: paths of tests.
        chosen: which of them, as pytest's ``-k``.
        install: what pip is told.
        beside: what a version needs besides its own requirements.
        without: what can't run under a version, for a reason that isn't ours.
    """

    versions: tuple[str, ...]
    tests: tuple[str, ...]
    chosen: str = ""
    install: tuple[str, ...] = ()
    beside: Mapping[str, tuple[str, ...]] = {}
    without: Mapping[str, tuple[str, ...]] = {}


PACKAGES = {
    "deepspeed": Package(
        ("0.18.4", "0.18.9", "0.19.0", "0.19.8"),
        ("tests/sharding/test_layouts.py", "tests/sharding/test_checkpoints.py"),
        "zero",
        # it is built from its source, and looks for torch while it is
        ("--no-deps", "--no-build-isolation"),
    ),
    "transformers": Package(
        ("4.57.6", "5.0.0", "5.5.4", "5.8.1", "5.14.1", "5.17.0", "5.23.0", "5.24.0"),
        ("tests/trainer", "tests/choices"),
        # an older huggingface_hub comes along, which the newest datasets does not know
        beside={"4.57.6": ("datasets==5.0.1",)},
    ),
    "torch": Package(
        ("2.6.0", "2.13.0"),
        ("tests/optim", "tests/sharding/test_layouts.py"),
        "not zero",
        # a newer torchao can't be imported there, nor then can transformers; its Triton interprets with an older NumPy
        beside={"2.6.0": ("torchao==0.13.0", "numpy==2.3.5")},
        # FSDP2 runs on no CPU there (its streams have no record_event), and PEFT takes no torchao as old
        without={"2.6.0": ("fsdp2", "hsdp", "each_layout", "lora_plus")},
    ),
}


class Result(NamedTuple):
    """What pytest counted under one version."""

    package: str
    version: str
    passed: int
    skipped: int


def read(path: Path = PASSED) -> list[Result]:
    """Read what passed."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        return [Result(row["package"], row["version"], int(row["passed"]), int(row["skipped"])) for row in rows]


def write(results: list[Result], path: Path = PASSED) -> None:
    """Write what passed, in order; no file if nothing did."""
    if not results:
        path.unlink(missing_ok=True)
        return
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Result._fields)
        writer.writerows(sorted(results, key=lambda result: (result.package, Version(result.version))))


def install(name: str, version: str, where: Path) -> None:
    """Install a version into a directory, unless it is there."""
    if (where / "done").exists():
        return
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--upgrade"]
    package = PACKAGES[name]
    command = [*pip, *package.install, "--target", str(where), f"{name}=={version}", *package.beside.get(version, ())]
    subprocess.run(command, check=True, timeout=1800, env={**os.environ, "DS_ACCELERATOR": "cpu"})
    (where / "done").touch()


def test(name: str, version: str, where: Path, given: list[str]) -> Result | None:
    """Run the tests of a package under one version; None if they did not pass."""
    paths = [str(where), *filter(None, [os.environ.get("PYTHONPATH")])]
    # what DeepSpeed compiles differs from version to version, under the same name
    extensions = {"TORCH_EXTENSIONS_DIR": str(where / "extensions")}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **extensions}
    found = f"import importlib.metadata as m; print(m.version({name!r}))"
    seen = subprocess.run([sys.executable, "-c", found], env=environment, capture_output=True, text=True, check=True)
    assert seen.stdout.strip().partition("+")[0] == version, f"{name} {seen.stdout.strip()} hides {version} in {where}"
    pytest = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider"]
    package = PACKAGES[name]
    chosen = filter(None, [package.chosen, *(f"not {what}" for what in package.without.get(version, ()))])
    command = [*pytest, *package.tests, "-k", " and ".join(chosen), *given]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=7200)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|skipped)", done.stdout[-2000:])}
    if done.returncode or not counts.get("passed"):
        print(done.stdout[-6000:], done.stderr[-2000:], sep="\n")
        return None
    return Result(name, version, counts["passed"], counts.get("skipped", 0))


def main() -> int:
    """Run what is asked for; return how many versions failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=PACKAGES)
    parser.add_argument("versions", nargs="*", help="instead of those that are listed")
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv-versions", help="where the versions are installed")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], help="more options for pytest")
    given = parser.parse_args()
    failed = []
    for version in (bar := tqdm(given.versions or PACKAGES[given.package].versions, unit="version")):
        bar.set_description(f"{given.package} {version}")
        where = given.folder / f"{given.package}-{version}"
        install(given.package, version, where)
        result = test(given.package, version, where, given.pytest)
        known = [old for old in read() if (old.package, old.version) != (given.package, version)]
        write(known + [result] * (result is not None))
        if result is None:
            failed.append(version)
        else:
            bar.write(f"{given.package} {version}: {result.passed} passed, {result.skipped} skipped")
    if failed:
        print(f"failed: {given.package} {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
