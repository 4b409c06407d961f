"""Where the pictures come from, and what is said where they can't be had."""

import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest
from evidence import data


def test_no_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("GAP_HF_CACHE", str(tmp_path))
    monkeypatch.setattr(data.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="GAP_HF_CACHE") as refused:
        data.fashion_package()
    assert "dataset-fashion-mnist" in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_another_file(tmp_path, monkeypatch):
    monkeypatch.setenv("GAP_HF_CACHE", str(tmp_path))
    (tmp_path / "dataset-fashion-mnist_0_all.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(SystemExit, match=r"its SHA-256 is .* expected is 39e172fe32dd"):
        data.fashion_package()


def test_unpacking(tmp_path):
    """A package like Debian's, with three pictures: 2 x 2 pixels become their mean."""
    pictures = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for prefix in ("train", "t10k"):
            for kind, content in (
                ("images-idx3", b"\0" * 16 + pictures.tobytes()),
                ("labels-idx1", b"\0" * 8 + b"\1\2\3"),
            ):
                packed = gzip.compress(content)
                entry = tarfile.TarInfo(f"./usr/share/datasets/fashion-mnist/{prefix}-{kind}-ubyte.gz")
                entry.size = len(packed)
                archive.addfile(entry, io.BytesIO(packed))
    package = b"!<arch>\n"
    for name, content in ((b"debian-binary", b"2.0"), (b"data.tar.xz", lzma.compress(held.getvalue()))):
        package += name.ljust(16) + b"0".ljust(32) + str(len(content)).encode().ljust(10) + b"`\n"
        package += content + b"\n" * (len(content) % 2)
    (tmp_path / "x.deb").write_bytes(package)
    data._unpack_fashion(tmp_path / "x.deb", tmp_path / "out")
    assert np.load(tmp_path / "out" / "test_labels.npy").tolist() == [1, 2, 3]
    small = np.load(tmp_path / "out" / "train.npy")
    assert small.shape == (3, 14, 14)
    assert abs(int(small[1, 2, 3]) - pictures[1, 4:6, 6:8].mean()) <= 0.5


def test_text_is_the_same_each_time():
    train, held_out = data.library(100_000)
    again = data.library.__wrapped__(100_000)
    assert train.equal(again[0])
    assert held_out.equal(again[1])
    assert int(train.max()) < 128
