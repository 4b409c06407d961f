"""The studies: a task, a family of optimizers, a length and a learning rate to start from."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from . import data
from .models import Autoencoder, Cnn, Gru, Mlp, Quadratic, Regression, Task
from .text_models import Decoder, Lora


class Study(NamedTuple):
    """One study.

    Attributes:
        task: makes the model and loads the data.
        family: "adam" or "sgdm".
        steps: of a run.
        lr: where fixed 0.9's best learning rate is expected, as a power of 2.
        cost: seconds a run, roughly, for the time left.
        together: how many runs fit the processor's caches best.
        linear: whether the learning rate falls linearly to 0; it stays as it is otherwise.
        decay: decoupled weight decay.
        title: for tables and figures.
    """

    task: Callable[[], Task]
    family: str
    steps: int
    lr: int
    cost: float
    title: str
    together: int = 40
    linear: bool = True
    decay: float = 0.01


def _mlp(size: int) -> Callable[[], Task]:
    return lambda: Mlp(data.fashion(), size, (196, 64, 10))


STUDIES = {
    "mlp_b2": Study(_mlp(2), "adam", 1000, -7, 0.13, "MLP, batch 2"),
    "mlp_b32": Study(_mlp(32), "adam", 300, -6, 0.05, "MLP, batch 32"),
    "mlp_b256": Study(_mlp(256), "adam", 300, -6, 0.17, "MLP, batch 256"),
    "lm_300": Study(
        lambda: Decoder(data.library(), 4, width=48), "adam", 300, -6, 0.6, "bytes, 300 steps", together=20
    ),
    "lm_1000": Study(
        lambda: Decoder(data.library(), 4, width=32), "adam", 1000, -6, 1.4, "bytes, 1,000 steps", together=20
    ),
    "lora": Study(lambda: _lora(), "adam", 200, -5, 0.85, "LoRA on MiniLM", together=20),
    "autoencoder": Study(
        lambda: Autoencoder(data.fashion(), 32, (196, 128, 64, 32, 12, 32, 64, 128, 196)),
        "adam", 300, -7, 0.3, "deep autoencoder", together=10, decay=0.0,
    ),
    "regression": Study(
        lambda: Regression(2, 100, 1.0, 1.0),
        "adam", 1000, -11, 0.02, "noisy regression, batch 2", linear=False, decay=0.0,
    ),
    "cnn": Study(lambda: Cnn(data.fashion(), 32), "sgdm", 300, -4, 0.15, "CNN, SGD", together=20, decay=0.0),
    "mlp_sgdm": Study(_mlp(32), "sgdm", 300, -4, 0.04, "MLP, SGD", decay=0.0),
    "quadratic": Study(
        lambda: Quadratic(100, 1e3), "sgdm", 300, 0, 0.01, "quadratic without noise, SGD", linear=False, decay=0.0
    ),
    # chosen when the recommendation stood, with data and a model that no other study has
    "gru": Study(lambda: Gru(data.handwritten(), 32), "adam", 300, -5, 0.15, "GRU"),
    "gru_sgdm": Study(lambda: Gru(data.handwritten(), 32), "sgdm", 300, -2, 0.15, "GRU, SGD", decay=0.0),
}  # fmt: skip


def _lora() -> Task:
    rows, *masks = data.docstring_features()
    return Lora(rows, (masks[0], masks[1]), data.last_layer(), 16)


@cache
def task(study: str) -> Task:
    """The task of a study, made once."""
    return STUDIES[study].task()
