"""Lists of tensors to optimize: those of real fine-tuning runs, and regular ones that show how the cost grows."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import BenchError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Workload:
    """Shapes of the parameters of a training run.

    Attributes:
        name: its name on the command line.
        about: its description in a few words.
        shapes: the shapes of its tensors, in the model's order.
    """

    name: str
    about: str
    shapes: tuple[Shape, ...]

    @property
    def elements(self) -> int:
        """The number of elements in all tensors."""
        return sum(map(math.prod, self.shapes))

    def shrunk(self, elements: int) -> "Workload":
        """A smaller workload of about ``elements`` elements: the same tensors with shorter first dimensions."""
        factor = max(1.0, self.elements / elements)
        shapes = tuple((math.ceil(first / factor), *rest) for first, *rest in self.shapes)
        return replace(self, shapes=shapes)

    def tensors(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Make the parameters and their gradients: random, but the same every time."""
        generator = torch.Generator(device).manual_seed(0)
        tensors = []
        for shape in self.shapes:
            value = torch.empty(shape, device=device, dtype=dtype).normal_(0, 0.02, generator=generator)
            value.requires_grad_()
            value.grad = torch.empty_like(value).normal_(0, 1e-3, generator=generator)
            tensors.append(value)
        return tensors


def lora(layers: int, linears: list[tuple[int, int]], rank: int) -> tuple[Shape, ...]:
    """The matrices A ``(rank, in)`` and B ``(out, rank)`` of each of the linear layers ``(in, out)``."""
    layer = [shape for inputs, outputs in linears for shape in ((rank, inputs), (outputs, rank))]
    return tuple(layer * layers)


def llama_1b() -> tuple[Shape, ...]:
    """The shapes of Llama-1B: the embedding (also the output), 16 layers of 7 matrices and 2 norms, the last norm."""
    width, hidden, keys = 2048, 8192, 512
    attention = [(width, width), (keys, width), (keys, width), (width, width)]
    layer = [*attention, (hidden, width), (hidden, width), (width, hidden), (width,), (width,)]
    return ((128256, width), *(layer * 16), (width,))


LLAMA_8B = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 14336), (4096, 14336), (14336, 4096)]
"""In- and outputs of q, k, v, o, gate, up and down."""

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("vit", "LoRA of rank 16 on q and v of a ViT-B", lora(12, [(768, 768)] * 2, 16)),
        Workload("llama", "LoRA of rank 16 on all linear layers of a Llama 8B", lora(32, LLAMA_8B, 16)),
        Workload("1b", "full fine-tune of a Llama 1B", llama_1b()),
    )
}


def find_workload(name: str) -> Workload:
    """The workload called ``name``.

    Raises:
        BenchError: there is no such workload.
    """
    if name not in WORKLOADS:
        raise BenchError(f"there is no workload {name!r}; there are {', '.join(WORKLOADS)}")
    return WORKLOADS[name]


def regular(tensors: int, elements: int) -> Workload:
    """A workload of ``tensors`` vectors with ``elements`` elements each."""
    return Workload("regular", f"{tensors:,} tensors of {elements:,} elements", ((elements,),) * tensors)
