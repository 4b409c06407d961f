"""A control: everything is done as for the paper's rule, but the candidate is drawn at random."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..arithmetic.rounding import hash32
from .rule import Rule


class Draw(Rule):
    """Apply a candidate drawn at random, each with the same probability.

    The draw is a hash of the option ``seed``, of the number of draws before, and of the parameter's number. So it is
    the same in every layout and after every resume, and torch's random generator is left alone.
    """

    types: ClassVar = {"random": False, "random_parameter_wise": True}
    remembers: ClassVar = ("draws",)

    def __init__(self, options: Mapping[str, Any], decays: Sequence[float]) -> None:
        self.seed = int(options["seed"])

    def start(self) -> dict[str, Any]:
        return {"last_choice": 0, "draws": 0}

    def judge(self, scores: Tensor, kept: Mapping[str, Tensor], number: Tensor) -> dict[str, Tensor]:
        draws = kept["draws"]
        # one after the other: the sum of all three would be the same for many of them
        bits = hash32(low32(draws + (self.seed * 0x9E3779B9 & 0xFFFFFFFF)))
        bits = hash32(bits ^ low32(number * 0x85EBCA6B))
        return {"last_choice": (bits.to(torch.int64) & 0xFFFFFFFF) % scores.shape[-1], "draws": draws + 1}


def low32(x: Tensor) -> Tensor:
    """The low 32 bits of an int64 tensor, as int32."""
    low = x & 0xFFFFFFFF
    return (low - ((low & 0x80000000) << 1)).to(torch.int32)
