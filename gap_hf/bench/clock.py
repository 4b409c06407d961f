"""Timing: every contender is stepped in turn, many times round."""

import gc
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch.optim import Optimizer

from .contenders import Contender

Advance = Callable[[int], None]
"""A function that is told how many steps have been taken since it was last called."""


@dataclass
class Entrant:
    """A contender in the benchmark, with its optimizer and the times measured so far.

    Attributes:
        contender: what is timed.
        optimizer: its optimizer, whose state has been made.
        seconds: the time of each of its steps so far.
    """

    contender: Contender
    optimizer: Optimizer
    seconds: list[float] = field(default_factory=list)


class Copier:
    """A copy of a memory area that is larger than the caches.

    Done before every timed step, it gives all steps the same start: caches that hold none of their data, as after a
    backward pass. Its own time tells how fast the memory is.
    """

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.source = torch.zeros(nbytes // 4, device=device)
        self.target = torch.empty_like(self.source).copy_(self.source)
        self.device = device
        self.seconds: list[float] = []

    @property
    def nbytes(self) -> int:
        """The number of bytes that one copy reads and writes."""
        return 2 * self.source.nbytes

    def copy(self) -> None:
        """Copy, and note how long it takes."""
        self.seconds.append(timed(lambda: self.target.copy_(self.source), self.device))


def timed(action: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds until ``action`` is done, on the device too."""
    wait(device)
    start = perf_counter()
    action()
    wait(device)
    return perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def race(entrants: Sequence[Entrant], rounds: int, copier: Copier, cold: bool, advance: Advance) -> None:
    """Time every entrant's step once in each round, in an order that is drawn anew for each round."""
    with no_garbage_collection():
        for number in range(rounds):
            order = random.Random(number).sample(entrants, len(entrants))
            if not cold:
                copier.copy()
            for entrant in order:
                if cold:
                    copier.copy()
                entrant.seconds.append(timed(entrant.optimizer.step, copier.device))
                advance(1)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep Python from collecting garbage in the middle of a step."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
