"""Parameter groups whose choices stay on the device until somebody reads them."""

from collections.abc import ItemsView, Iterator, ValuesView
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from .options import is_count, is_number
from .rules import TYPES
from .uploads import upload

DTYPES = {
    "last_choice": torch.int64,
    "negative_steps": torch.int64,
    "draws": torch.int64,
    "J_bar": torch.float64,
    "last_weights": torch.float64,
}
"""The entries that a step decides: kept where they were computed, and plain numbers for whoever reads them."""


class Group(dict[str, Any]):
    """A parameter group: a dict, as in torch.optim.

    Values given to ``keep`` are brought to the host when they are read, which waits for the device; ``held`` gives them
    to the next step without waiting.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._kept: dict[str, Tensor] = {}
        self._unread: set[str] = set()

    def keep(self, key: str, value: Tensor) -> None:
        """Set ``key`` to ``value``, at most 2-D, without waiting for it.

        Under ``capturable`` it is copied into the tensor that is there: a CUDA graph works on fixed addresses.
        """
        if super().get("capturable") and key in self._kept:
            self._kept[key].copy_(value)
        else:
            self._kept[key] = value
        self._unread.add(key)

    def held(self, key: str, device: torch.device) -> Tensor:
        """Return the value of ``key`` on ``device``."""
        kept = self._kept.get(key)
        if kept is not None and kept.device == device:
            return kept
        return on_device(self, key, device)

    def is_unread(self, key: str) -> bool:
        """Whether reading ``key`` would wait for the device."""
        return key in self._unread

    def __getitem__(self, key: str) -> Any:
        if key in self._unread:
            super().__setitem__(key, self._kept[key].tolist())
            # a replayed CUDA graph changes the tensor without telling
            if not super().get("capturable"):
                self._unread.discard(key)
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._kept.pop(key, None)
        self._unread.discard(key)
        super().__setitem__(key, value)

    # everything else that reads or writes a dict, by way of these two
    def _settled(self) -> "Group":
        for key in tuple(self._unread):
            self[key]
        return self

    def __iter__(self) -> Iterator[str]:  # its being overridden makes dict(group) and {**group} call __getitem__
        return super().__iter__()

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return dict.items(self._settled())

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return dict.values(self._settled())

    def pop(self, key: str, *default: Any) -> Any:
        if key in self:
            self[key]  # settles
        value = super().pop(key, *default)
        self._kept.pop(key, None)
        self._unread.discard(key)
        return value

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> "Group":  # type: ignore[misc,override]
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        return dict.__eq__(self._settled(), other._settled() if isinstance(other, Group) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __repr__(self) -> str:
        return dict.__repr__(self._settled())

    def __reduce__(self) -> Any:  # copies and pickles
        return Group, (dict(self),)


def check_decided(group: dict[str, Any], key: str) -> None:
    """Raise ValueError unless ``group[key]``, with a key of ``DTYPES``, is a value that a step can have left there.

    The value may come from a file or from somebody's assignment, and kernels in C index memory with it.
    """
    value, K, per_parameter = group[key], group["K"], TYPES[group["type"]].per_parameter
    each = per_parameter and key != "J_bar"
    if key in ("J_bar", "last_weights"):
        expected = f"a list of {K} finite numbers" + (" >= 0" if key == "last_weights" else "")
    else:
        expected = "a whole number from 0" + (f" to {K - 1}" if key == "last_choice" else " on")
    entries = value if each and isinstance(value, list) and len(value) == group["count"] else [value]
    if (each and entries is not value) or not all(can_be_left(key, entry, K) for entry in entries):
        shown = repr(value)
        expected = f"a list of {group['count']}, each {expected}" if each else expected
        raise ValueError(f"{key}={shown[:100]}{'...' * (len(shown) > 100)} is damaged; expected {expected}")


def can_be_left(key: str, entry: Any, K: int) -> bool:
    """Whether a step with K candidates can leave ``entry``, of one choice, under ``key``."""
    if key in ("J_bar", "last_weights"):
        least = 0.0 if key == "last_weights" else -inf
        numbers = isinstance(entry, list) and len(entry) == K
        return numbers and all(is_number(number) and isfinite(number) and number >= least for number in entry)
    return is_count(entry) and entry < (K if key == "last_choice" else 2**63)


def on_device(group: dict[str, Any], key: str, device: torch.device) -> Tensor:
    """Return ``group[key]``, an int or a list of numbers or of such lists, as a tensor on ``device``.

    Raises:
        ValueError: it is not a value that a step can have left there.
    """
    check_decided(group, key)
    value = group[key]
    if isinstance(value, list):
        return upload(value, DTYPES[key], device)
    return upload([value], DTYPES[key], device)[0]


def keep(group: dict[str, Any], key: str, value: Tensor) -> None:
    """Call ``Group.keep``; if a backend has replaced the group by a plain dict, that gets the numbers at once."""
    if isinstance(group, Group):
        group.keep(key, value)
    else:
        group[key] = value.tolist()


def held(group: dict[str, Any], key: str, device: torch.device) -> Tensor:
    """Return ``Group.held``, or the numbers of a plain dict."""
    return group.held(key, device) if isinstance(group, Group) else on_device(group, key, device)
