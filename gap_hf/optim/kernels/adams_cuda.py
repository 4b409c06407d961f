"""Adams's fused CUDA kernels: how ``triton_adams.py`` is told what to do, and the tasks of the power iteration."""

from collections.abc import Iterator
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..work import Work
from .fused_cuda import element_type, logarithms
from .kernel import Addresses
from .matrices import Matrices
from .rounds import RoundsOnCUDA

ROWS, COLUMNS = 32, 64
"""The rows and columns of a matrix that a program of the power iteration loads at once."""


class Tasks:
    """What the programs of the power iteration are dealt; ``triton_adams_power.py`` says what the tables hold."""

    def __init__(self, work: Work, matrices: Matrices) -> None:
        arrays = matrices.arrays
        boxes, first = arrays["boxes"].reshape(-1, 6), arrays["first_box"]
        stacks = [prod(place.shape[:-2]) for place in work.places]
        about = np.zeros((len(work.values), 8), np.int64)
        for k, name in enumerate(("R", "C", "columns", "rows", "of_norm")):
            about[:, k] = arrays[name][: len(about)]
        about[:, 5] = np.where(first[1:] > first[:-1], first[:-1], -1)
        about[:, 6] = [beginning(value, *place) for value, place in zip(work.values, work.places, strict=True)]
        about[:, 7] = stacks
        self.about, self.boxes = about, boxes
        spectral = [i for i in range(len(about)) if first[i] < first[i + 1]]
        left = [task for i in spectral for task in left_tasks(i, about[i], boxes, *first[i : i + 2])]
        self.left = np.array(left, np.int64).reshape(-1, 4)
        right = [
            (i, b, low) for i in spectral for b in range(first[i], first[i + 1]) for low in range(0, boxes[b, 1], ROWS)
        ]
        self.right = np.array(right, np.int64).reshape(-1, 3)
        each = [(i, m) for i in spectral for m in range(stacks[i])]
        self.matrices = np.array(each, np.int64).reshape(-1, 2)


def left_tasks(i: int, about: np.ndarray, boxes: np.ndarray, first: int, end: int) -> Iterator[tuple[int, ...]]:
    """The tasks of fragment ``i`` in W'u: some columns each, and the boxes that have some of them."""
    C, total = int(about[1]), int(about[1] * about[7])
    of_matrix = boxes[first:end, 5]  # ascending
    for low in range(0, total, COLUMNS):
        last = min(low + COLUMNS, total) - 1
        begin = np.searchsorted(of_matrix, low // C, "left")
        yield i, low, int(first + begin), int(first + np.searchsorted(of_matrix, last // C, "right"))


def beginning(value: Tensor, row: int, shape: torch.Size, start: int | tuple[int, ...]) -> int:
    """Where a fragment begins in the flattened parameter; -1 if it is no stretch of that."""
    if isinstance(start, int):
        return start
    return start[0] * shape[1:].numel() if value.shape[1:] == shape[1:] else -1


class AdamsOnCUDA(RoundsOnCUDA):
    """The kernel on CUDA; its buffers are K first moments, a second moment and u, all in float32.

    Where no scores are wanted, the last round is left to ``apply`` or ``mix``, which need one pass for both.
    """

    module: ClassVar[str] = "triton_adams"

    vectors: Matrices | None = None
    tasks: Tasks | None = None

    def begin(self, work: Work, addresses: Addresses | None) -> None:
        super().begin(work, addresses)
        if self.vectors is None or not self.vectors.are_those_of(work):
            self.vectors = Matrices(work)
            self.tasks = Tasks(work, self.vectors)

    def numbers(self, numbers: Any) -> np.ndarray:
        table = [*numbers.betas, *numbers.modulation, *logarithms(numbers.betas)]
        return np.array([*table, numbers.beta2, *logarithms((numbers.beta2,))], dtype=np.float64)

    def told(self, numbers: Any) -> dict[str, tuple[list[float], dict[str, Any]]]:
        corrected = {"CORRECTED": numbers.inside}
        decays = [float(numbers.decay), float(numbers.scalar_vector_decay), float(numbers.soft_reset)]
        return {"observe": ([], corrected), "move": (decays, corrected)}

    def there(self, work: Work, name: str) -> Tensor:
        """Return one of the tables of ``tasks`` on the device."""
        source = getattr(self.tasks, name)
        return self.uploaded(work.values[0].device, name, source, source.flatten)

    # ------------------------------------------------------------------ the rounds
    def observe(self, work: Work, answers: list[Any]) -> Any:
        tables, vectors = self.prepared(work), self.vectors
        assert vectors is not None
        if answers and answers[-1] is not vectors.parts[len(answers) - 1]:  # other ranks had shares in them
            torch.cat(answers[-1], out=(vectors.v, vectors.Wv)[len(answers) - 1])
        if len(answers) == 2:
            self.each_matrix(work, "lengths", vectors.Wv, vectors.norm, ROWS=1024)
            if not work.scored:
                return torch.zeros(len(work.values), 0, dtype=torch.float64, device=vectors.v.device)
            shape = self.family.sums(work.numbers), tables.n_blocks
            partial = torch.empty(shape, dtype=torch.float32, device=vectors.v.device)
            self.run(work, self.module, "observe", partial, len(work.values), tables.n_blocks)
            return self.added_up(work, partial)
        tile = {"VALUE": element_type(work.values[0].dtype), "ROWS": ROWS, "COLUMNS": COLUMNS}
        boxes, about = self.there(work, "boxes"), self.there(work, "about")
        if not answers:
            vectors.v.zero_()
            left, n = self.there(work, "left"), len(work.values)
            tile["COLUMN"] = 3 + len(work.numbers.betas)
            self.launch(work, "left", len(left) // 4, tables.table, boxes, about, left, vectors.v, n, **tile)
            return vectors.parts[0]
        self.each_matrix(work, "unit", vectors.v, COLUMNS=1024)
        vectors.Wv.zero_()
        right = self.there(work, "right")
        everything = tables.table, boxes, about, right, vectors.v, vectors.Wv
        self.launch(work, "right", len(right) // 3, *everything, **tile)
        return vectors.parts[1]

    def each_matrix(self, work: Work, name: str, *vectors: Tensor, **constants: Any) -> None:
        """Launch a kernel with a program for each matrix."""
        about, matrices = self.there(work, "about"), self.there(work, "matrices")
        self.launch(work, name, len(matrices) // 2, about, matrices, *vectors, **constants)

    # ------------------------------------------------------------------ the step
    def mix(self, work: Work, answers: list[Any], weights: Tensor, resets: Tensor) -> None:
        vectors = self.vectors
        assert vectors is not None
        lr, constants = self.learning_rate(work)
        decisions = weights, *weights.stride(), resets, resets.stride(0), lr
        tables = self.there(work, "about"), self.there(work, "boxes"), vectors.v, vectors.Wv, vectors.norm
        constants["UPDATE"] = not work.scored
        self.run(work, self.module, "move", *decisions, *tables, len(work.values), **constants)
        increment_version(work.values)
