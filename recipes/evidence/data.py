"""What the studies train on, each loaded once and cached: pictures, text, and features of a pretrained encoder.

Nothing needs a model hub. Fashion-MNIST comes in a Debian package, the text is the standard library of the running
Python, and the encoder comes in a PyPI package (see ``recipes/offline.py``).
"""

import gzip
import hashlib
import lzma
import platform
import shutil
import subprocess
import sysconfig
import tarfile
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from offline import LEFT_OUT, cache_directory, converted, minilm, topics
from offline_images import digits
from torch import Tensor

FASHION_PACKAGE = "dataset-fashion-mnist"
FASHION_SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
TOKENS = 32
"""Docstrings are cut to this length for the encoder."""


class Labelled(NamedTuple):
    """Rows to train on and rows that are held out, with their classes."""

    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor


# ---------------------------------------------------------------- pictures
@cache
def fashion() -> Labelled:
    """Fashion-MNIST, averaged to 14 x 14 pixels and standardised; the first 2,000 test pictures are held out."""
    directory = converted("evidence-fashion-mnist", fashion_package, _unpack_fashion)
    stored = {path.stem: np.load(path) for path in directory.glob("*.npy")}
    mean, std = stored["train"].mean() / 255, stored["train"].std() / 255
    train, test = ((torch.tensor(stored[name]).flatten(1) / 255 - mean) / std for name in ("train", "test"))
    labels = {name: torch.tensor(stored[f"{name}_labels"]) for name in ("train", "test")}
    return Labelled(train, labels["train"], test[:2000], labels["test"][:2000])


@cache
def handwritten() -> Labelled:
    """The 5,000 digits of ``offline_images.py``, averaged to 14 x 14 pixels and standardised; 1,000 are held out."""
    both = digits()
    pixels = [torch.tensor(np.stack([np.asarray(row["image"]) for row in rows])) / 255 for rows in both]
    train, held_out = (x.view(-1, 14, 2, 14, 2).mean((2, 4)).flatten(1) for x in pixels)
    labels, held_out_labels = (torch.tensor([row["label"] for row in rows]) for rows in both)
    mean, std = train.mean(), train.std()
    return Labelled((train - mean) / std, labels, (held_out - mean) / std, held_out_labels)


def fashion_package() -> Path:
    """The Debian package of Fashion-MNIST: the one in the cache directory, or downloaded to it by apt."""
    directory = cache_directory()
    if not (found := sorted(directory.glob(f"{FASHION_PACKAGE}_*.deb"))):
        if shutil.which("apt-get"):
            subprocess.run(["apt-get", "-q", "download", FASHION_PACKAGE], cwd=directory, check=False)
            found = sorted(directory.glob(f"{FASHION_PACKAGE}_*.deb"))
        if not found:
            raise SystemExit(
                f"These studies need the Debian package {FASHION_PACKAGE} (31 MB), which apt could not download here.\n"
                f"Get its .deb file (packages.debian.org/{FASHION_PACKAGE}) and put it into {directory},\n"
                "or into the directory that GAP_HF_CACHE names."
            )
    digest = hashlib.sha256(found[-1].read_bytes()).hexdigest()
    if digest != FASHION_SHA256:
        raise SystemExit(f"{found[-1]} is not the known file: its SHA-256 is {digest}, expected is {FASHION_SHA256}.")
    return found[-1]


def _unpack_fashion(package: Path, directory: Path) -> None:
    """Write the pictures, averaged over 2 x 2 pixels, and their labels."""
    directory.mkdir()
    with tarfile.open(fileobj=BytesIO(lzma.decompress(_member(package.read_bytes(), b"data.tar.xz")))) as archive:
        for name, prefix in (("train", "train"), ("test", "t10k")):
            folder = f"./usr/share/datasets/fashion-mnist/{prefix}"
            raw = [archive.extractfile(f"{folder}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")]
            pixels, labels = (gzip.decompress(file.read()) for file in raw if file is not None)
            pictures = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 14, 2, 14, 2)
            np.save(directory / f"{name}.npy", pictures.mean(axis=(2, 4)).round().astype(np.uint8))
            np.save(directory / f"{name}_labels.npy", np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))


def _member(deb: bytes, name: bytes) -> bytes:
    """A file of a Debian package, which is an ``ar`` archive; so nothing of Debian's is needed to read it."""
    at = 8  # behind the archive's magic
    while at < len(deb):
        size = int(deb[at + 48 : at + 58])
        if deb[at : at + 16].rstrip(b" /") == name:
            return deb[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError(f"no {name.decode()} in the package")


# ---------------------------------------------------------------- text
@cache
def library(most: int = 6_000_000) -> tuple[Tensor, Tensor]:
    """The bytes of the standard library's source, (train, held out), without files that are not ASCII.

    A tenth of the files is held out. They are in a fixed order, so all depends on the Python version only.
    """
    root = Path(sysconfig.get_path("stdlib"))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for path in sorted(root.rglob("*.py")):
        where = path.relative_to(root)
        source = path.read_bytes()
        if not LEFT_OUT.intersection(where.parts) and source.isascii():
            parts[zlib.crc32(where.as_posix().encode()) % 10 == 0].append(source)
    train, held_out = (np.frombuffer(b"\n".join(some), np.uint8)[:most].astype(np.int64) for some in parts)
    return torch.tensor(train), torch.tensor(held_out)


# ---------------------------------------------------------------- features
@cache
def docstring_features() -> tuple[Labelled, Tensor, Tensor]:
    """(hidden states before MiniLM's last layer, which tokens there are, the same for the held-out rows).

    The rows are docstrings of the standard library, and a label says which library one is from.
    """
    name = f"evidence-minilm-{platform.python_version()}"
    directory = converted(name, lambda: minilm() / "model.safetensors", _encode)
    stored = {path.stem: torch.tensor(np.load(path)) for path in directory.glob("*.npy")}
    rows = Labelled(
        stored["train"].float(), stored["train_labels"], stored["held_out"].float(), stored["held_out_labels"]
    )
    return rows, stored["train_mask"], stored["held_out_mask"]


def _encode(weights: Path, directory: Path) -> None:
    """Write what comes out of the last layer but one."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    directory.mkdir()
    tokenizer, model = AutoTokenizer.from_pretrained(weights.parent), AutoModel.from_pretrained(weights.parent).eval()
    both = topics()
    classes = sorted({row["label"] for row in both[0]})
    for name, rows in zip(("train", "held_out"), both, strict=True):
        texts = [row["text"] for row in rows]
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
        with torch.no_grad():
            hidden = [
                model(ids, mask, output_hidden_states=True).hidden_states[-2]
                for ids, mask in zip(tokens["input_ids"].split(64), tokens["attention_mask"].split(64), strict=True)
            ]
        np.save(directory / f"{name}.npy", torch.cat(hidden).half().numpy())
        np.save(directory / f"{name}_mask.npy", tokens["attention_mask"].bool().numpy())
        np.save(directory / f"{name}_labels.npy", np.array([classes.index(row["label"]) for row in rows]))


@cache
def last_layer() -> dict[str, Tensor]:
    """MiniLM's last layer, frozen, by the names that transformers gives its weights."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    layer = AutoModel.from_pretrained(minilm()).encoder.layer[-1]
    return {name: weight.detach().float() for name, weight in layer.named_parameters()}
