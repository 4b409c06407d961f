"""The tasks on text: a small decoder on bytes, and low-rank adapters in the last layer of a pretrained encoder."""

from collections.abc import Sequence
from math import prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Labelled
from .models import Batch, Rows, Task, cross_entropy, per_run

BYTES = 128
"""The text is ASCII."""


class Decoder(Task):
    """A causal transformer on bytes: layer norms before each half of a layer, and no biases."""

    PER_LAYER = 6

    def __init__(
        self, text: tuple[Tensor, Tensor], size: int, width: int, layers: int = 1, heads: int = 2, context: int = 64
    ) -> None:
        self.train, held_out = text
        self.size, self.context, self.heads = size, context, heads
        starts = torch.linspace(0, len(held_out) - context - 1, 64).long()
        self.rows = held_out[starts[:, None] + torch.arange(context + 1)]
        D = width
        layer = [(D,), (D, 3 * D), (D, D), (D,), (D, 4 * D), (4 * D, D)]
        self.shapes = [(BYTES, D), (context, D), *(layer * layers), (D,), (D, BYTES)]

    def start(self, generator: torch.Generator) -> list[Tensor]:
        weights = []
        for k, shape in enumerate(self.shapes):
            if len(shape) == 1:
                weights.append(torch.ones(shape))  # the norms'
            else:
                scale = 0.1 if k < 2 else 1 / sqrt(prod(shape[:-1]))
                weights.append(torch.randn(shape, generator=generator) * scale)
        return weights

    def draw(self, generator: torch.Generator, steps: int) -> Tensor:
        return torch.randint(len(self.train) - self.context, (steps, self.size), generator=generator)

    def batch(self, drawn: Tensor) -> Batch:
        return (self.train[drawn[..., None] + torch.arange(self.context + 1)],)

    def held_out(self) -> Batch:
        return (self.rows[None],)

    def losses(self, weights: Sequence[Tensor], batch: Batch) -> Tensor:
        runs, D = len(weights[0]), self.shapes[0][1]
        text = per_run(batch[0], runs)
        rows, T = text.shape[1], self.context
        first = torch.arange(runs)[:, None, None] * BYTES  # each run looks its bytes up in its own table
        x = F.embedding(text[..., :-1] + first, weights[0].reshape(-1, D)) + weights[1][:, None]
        x = x.reshape(runs, rows * T, D)
        for k in range(2, len(weights) - 2, self.PER_LAYER):
            norm_1, into, out, norm_2, up, down = weights[k : k + self.PER_LAYER]
            qkv = torch.bmm(normed(x, norm_1), into).view(runs * rows, T, 3, self.heads, -1)
            q, k_, v = qkv.permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k_, v, is_causal=True)
            x = x + torch.bmm(mixed.transpose(1, 2).reshape(runs, rows * T, D), out)
            x = x + torch.bmm(F.gelu(torch.bmm(normed(x, norm_2), up)), down)
        logits = torch.bmm(normed(x, weights[-2]), weights[-1])
        return cross_entropy(logits, text[..., 1:])


def normed(x: Tensor, weight: Tensor) -> Tensor:
    """A layer norm without bias, each run with its own weight."""
    return F.layer_norm(x, x.shape[-1:]) * weight[:, None]


class Lora(Rows):
    """Adapters on query and value of a frozen last layer, and a linear head on the first token.

    Of the last layer only the first token is needed, so the layer is computed for that one alone. What the layer sees
    is cached. Keys are never formed: q . (K h) = (K' q) . h, and the key's bias, the same for all tokens, cancels.
    """

    def __init__(
        self, rows: Labelled, masks: tuple[Tensor, Tensor], layer: dict[str, Tensor], size: int, rank: int = 8
    ) -> None:
        super().__init__(rows, size)
        self.masks, self.layer = masks, layer
        self.width, self.heads = rows.train.shape[-1], 12
        classes = int(rows.train_labels.max()) + 1
        D = self.width
        self.shapes = [(D, rank), (rank, D), (D, rank), (rank, D), (D, classes), (1, classes)]

    def start(self, generator: torch.Generator) -> list[Tensor]:
        down = [torch.randn(self.shapes[k], generator=generator) / sqrt(self.width) for k in (0, 2)]
        head = torch.randn(self.shapes[4], generator=generator) * 0.02
        up = [torch.zeros(self.shapes[k]) for k in (1, 3, 5)]
        return [down[0], up[0], down[1], up[1], head, up[2]]

    def batch(self, drawn: Tensor) -> Batch:
        return self.data.train[drawn], self.data.train_labels[drawn], self.masks[0][drawn]

    def held_out(self) -> Batch:
        return self.data.held_out[None], self.data.held_out_labels[None], self.masks[1][None]

    def losses(self, weights: Sequence[Tensor], batch: Batch) -> Tensor:
        down_q, up_q, down_v, up_v, head, bias = weights
        hidden, labels, mask = batch
        (S, B, T, D), runs = hidden.shape, len(head)
        L, H = runs // S, self.heads
        first = per_run(hidden[:, :, 0], runs)
        query = self.linear("attention.self.query", first) + torch.bmm(torch.bmm(first, down_q), up_q)
        # (H, R * B, D / H) times each head's rows of the key's matrix: (S, B, L * H, D)
        key = torch.bmm(query.view(runs * B, H, -1).transpose(0, 1), self.by_head("attention.self.key"))
        key = key.view(H, S, L, B, D).permute(1, 3, 2, 0, 4).reshape(S * B, L * H, D)
        tokens = hidden.reshape(S * B, T, D)
        scores = torch.bmm(key, tokens.transpose(1, 2)) / sqrt(D // H)
        attention = scores.masked_fill(~mask.reshape(S * B, 1, T), -torch.inf).softmax(-1)
        seen = torch.bmm(attention, tokens).view(S, B, L, H, D).permute(3, 0, 2, 1, 4).reshape(H, runs * B, D)
        value = torch.bmm(seen, self.by_head("attention.self.value").transpose(1, 2)).transpose(0, 1)
        low = torch.bmm(seen.view(H, runs, B, D).transpose(0, 1).reshape(runs, H * B, D), down_v).view(runs, H, B, -1)
        added = torch.einsum("rhbk,rkhd->rbhd", low, up_v.view(runs, -1, H, D // H))
        mixed = value.reshape(runs, B, D) + self.layer["attention.self.value.bias"] + added.reshape(runs, B, D)
        x = self.norm("attention.output", first + self.linear("attention.output.dense", mixed))
        x = self.norm("output", x + self.linear("output.dense", F.gelu(self.linear("intermediate.dense", x))))
        return cross_entropy(torch.baddbmm(bias, x, head), per_run(labels, runs))

    def linear(self, name: str, x: Tensor) -> Tensor:
        """A frozen linear layer."""
        return F.linear(x, self.layer[f"{name}.weight"], self.layer[f"{name}.bias"])

    def by_head(self, name: str) -> Tensor:
        """The rows of a frozen matrix that make up each head, ``(H, D / H, D)``."""
        return self.layer[f"{name}.weight"].view(self.heads, -1, self.width)

    def norm(self, name: str, x: Tensor) -> Tensor:
        """A frozen layer norm, with the small number that the encoder's configuration has."""
        weight, bias = self.layer[f"{name}.LayerNorm.weight"], self.layer[f"{name}.LayerNorm.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-12)
