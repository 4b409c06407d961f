"""Small damage to things that were right: to nested values with tensors in them, to text, and to bytes."""

import copy
import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

WEIRD: list[Any] = [
    None, True, False, 0, 1, 2, 7, -1, -3, 0.5, 1.5, -0.0, 1e-320, 1e300, 10**6, 10**30, -(10**30), 2**31, 2**53 + 1,
    2**63, math.nan, math.inf, -math.inf, 1j, Fraction(1, 3), np.float64(0.5), np.float32("nan"), np.int64(3),
    np.bool_(True), "", "0", "nope", "switch", "default", "bfloat16", "8bit", "\x00", "é" * 9, b"", b"a", (), [], {},
    [[]], [None], [0.9], (0.9,), (0.9, 0.999), [(0.9, 0.999)], [0.9, 0.999, 0.5], {"step": 1}, [[0] * 3] * 3, range(3),
    set(), len,
]  # fmt: skip

DTYPES = (
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
)

TENSORS: list[Callable[[Tensor, random.Random], Any]] = [
    lambda t, rng: t.to(rng.choice(DTYPES)),
    lambda t, rng: t.reshape(-1),
    lambda t, rng: t.unsqueeze(0),
    lambda t, rng: t.t().clone() if t.ndim == 2 else t.reshape(-1)[:0],
    lambda t, rng: t.t().contiguous().t() if t.ndim == 2 else t.expand(2, *t.shape),
    lambda t, rng: t.flatten()[: rng.randrange(t.numel() + 1)],
    lambda t, rng: torch.cat([t.flatten(), t.flatten()]),
    lambda t, rng: torch.full_like(t, rng.choice([math.nan, math.inf, -math.inf, -1.0, 1e38, 1e-42])),
    lambda t, rng: spoiled(t, rng.choice([math.nan, math.inf, -math.inf, -1e-9, -1.0])),
    lambda t, rng: -t,
    lambda t, rng: t + 0.5,
    lambda t, rng: t.to("meta"),
    lambda t, rng: t.to_sparse() if t.ndim else t,
    lambda t, rng: t.clone().requires_grad_() if t.is_floating_point() else t,
    lambda t, rng: t.tolist(),
    lambda t, rng: t.numpy() if t.dtype != torch.bfloat16 else None,
    lambda t, rng: torch.tensor([]),
    lambda t, rng: torch.zeros(()).expand(t.shape),
    lambda t, rng: torch.nested.nested_tensor([t.flatten(), t.flatten()[:1]]) if t.numel() > 1 else t,
    lambda t, rng: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
]


def spoiled(t: Tensor, value: float) -> Tensor:
    """``t`` with one other element."""
    t = t.clone()
    if t.numel():
        t.view(-1)[t.numel() // 2] = value
    return t


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside ``value``, itself included."""
    found = [path]
    if isinstance(value, dict):
        for key in value:
            found += places(value[key], (*path, key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            found += places(item, (*path, i))
    return found


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """``value`` with ``new`` at ``path``."""
    if not path:
        return new
    key, *rest = path
    inner = put(value[key], tuple(rest), new)
    if isinstance(value, tuple):
        return (*value[:key], inner, *value[key + 1 :])
    value[key] = inner
    return value


def weird(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(WEIRD))  # what is damaged again must not stay so


def damaged(value: Any, rng: random.Random) -> Any:
    """Something else in the place of ``value``, often much like it."""
    if rng.random() < 0.25:
        return weird(rng)
    if isinstance(value, Tensor):
        try:
            return rng.choice(TENSORS)(value, rng)
        except (RuntimeError, TypeError):  # not for one that was damaged before
            return weird(rng)
    if isinstance(value, dict):
        return damaged_dict(dict(value), rng)
    if isinstance(value, (list, tuple)):
        return type(value)(damaged_list(list(value), rng))
    if isinstance(value, str):
        return text(value, rng)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return rng.choice([-value, value + 1, value - 1, value * 10, value / 3, float(value), str(value), [value]])
    return weird(rng)


def damaged_dict(value: dict[Any, Any], rng: random.Random) -> dict[Any, Any]:
    keys = list(value)
    if not keys or rng.random() < 0.1:
        value[rng.choice(["more", 0, 99, None, "step", "params"])] = weird(rng)
        return value
    key, other = rng.choice(keys), rng.choice(keys)
    action = rng.randrange(4)
    if action == 0:
        del value[key]
    elif action == 1:  # renamed
        value[text(key, rng) if isinstance(key, str) else rng.choice([key, str(key), -1, 99, None])] = value.pop(key)
    elif action == 2:
        value[key] = value[other]
    else:
        value[key], value[other] = value[other], value[key]
    return value


def damaged_list(value: list[Any], rng: random.Random) -> list[Any]:
    i = rng.randrange(len(value) + 1)
    action = rng.randrange(5)
    if action == 0:
        del value[i : i + 1]
    elif action == 1:
        value.insert(i, value[i % len(value)] if value else weird(rng))
    elif action == 2:
        rng.shuffle(value)
    elif action == 3:
        value.insert(i, weird(rng))
    else:
        value = value[:i]
    return value


def text(value: str, rng: random.Random) -> str:
    """A few characters of it changed."""
    for _ in range(rng.randint(1, 3)):
        i, j = sorted(rng.randrange(len(value) + 1) for _ in range(2))
        piece = rng.choice(["", value[i:j] * 2, *",=:/.- \t\n\x00_0159eE+infnatrue\u0660é\U0001f600"])
        value = value[:i] + piece + value[j if rng.random() < 0.3 else i :]
    return value


def mutated(value: Any, rng: random.Random, whole: bool = True) -> Any:
    """A copy of ``value`` with one to three damages, anywhere in it: also in place of it, if ``whole``."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        path = rng.choice(places(value)[not whole :] or [()])
        if path or whole:
            value = put(value, path, damaged(at(value, path), rng))
    return value


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Cut, flipped, doubled, or shuffled bytes."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        action = rng.randrange(7)
        if action == 0:
            data = data[:i]
        elif action == 1:
            data = data[:i] + data[j:]
        elif action == 2 and data:
            i = min(i, len(data) - 1)
            data = data[:i] + bytes([data[i] ^ (1 << rng.randrange(8))]) + data[i + 1 :]
        elif action == 3:
            data = data[:j] + data[i:]
        elif action == 4:
            data = data[:i] + rng.randbytes(rng.randint(1, 9)) + data[i:]
        elif action == 5:
            data = (
                data[:i]
                + rng.choice([b"\n", b"\x00" * 20, b"[" * 30000, b"9" * 5000, b'{"a":' * 20000, b"\r\n", b"\xff\xfe"])
                + data[j:]
            )
        else:
            lines = data.split(b"\n")
            rng.shuffle(lines)
            data = b"\n".join(lines)
    return data
