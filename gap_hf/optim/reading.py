"""What a family makes of a group's options, remembered until one of them changes.

Anybody may rewrite options between two steps, by assignment or in place: schedulers, users, loaded states. So what was
read is kept by value, and compared at every step. That takes a microsecond; to read everything anew would take longer
than the update of a small model.
"""

import marshal
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any, Generic, TypeVar

from .family import Family
from .groups import DTYPES
from .options import number
from .scope import rule_of

T = TypeVar("T")


class Seen(Mapping[str, Any]):
    """A group's options, which note what is read of them, but for the learning rate.

    Attributes:
        noted: what was read, by name; ``...`` where there is nothing.
        comparable: whether it can be compared with what is there later.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.noted: dict[str, Any] = {}
        self.comparable = True

    def __getitem__(self, name: str) -> Any:
        if name == "lr":
            return self.options[name]
        if name not in self.noted:
            value = self.options.get(name, ...)
            plain = is_plain(value) and name not in DTYPES  # those may be waiting on the device
            self.comparable &= plain
            self.noted[name] = deepcopy(value) if plain else value  # a list may be rewritten in place
        if self.noted[name] is ...:
            raise KeyError(name)
        return self.noted[name]

    def __iter__(self) -> Iterator[str]:
        self.comparable = False
        return iter(self.options)

    def __len__(self) -> int:
        self.comparable = False
        return len(self.options)


def is_plain(value: Any) -> bool:
    """Whether ``value`` is a number, string, flag, None, ``...``, or a list or tuple of such."""
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return type(value) in (int, float, bool, str, type(None), type(...))


def bits(group: dict[str, Any], names: Iterable[str]) -> bytes:
    """Return the values of plain options, written out exactly, types included; nothing if one is not plain any more."""
    try:
        # dict's own get, as a group's looks on the device first
        return marshal.dumps([dict.get(group, name, ...) for name in names], 2)
    except ValueError:
        return b""


class Remembered(Generic[T]):
    """A function of a group's options, evaluated only if something that it read has another value than before."""

    def __init__(self, function: Callable[[Mapping[str, Any]], T]) -> None:
        self.function = function
        self.names: list[str] = []
        self.bits = b""

    def __call__(self, group: dict[str, Any]) -> T:
        if not self.bits or bits(group, self.names) != self.bits:
            seen = Seen(group)
            self.bits, self.result = b"", self.function(seen)
            if seen.comparable:
                self.names = list(seen.noted)
                self.bits = bits(seen.noted, self.names)
        return self.result


class Reader:
    """The reader of one group's options.

    Attributes:
        wanted: gives the number of candidates, and what the family needs of a parameter.
        settled: gives the family's buffers, and the rule that decides in the group; None if there is nothing to decide.
    """

    def __init__(self, family: Family) -> None:
        self.wanted = Remembered(lambda options: (len(family.parse(options)), family.grain_of(options)))
        self.settled = Remembered(lambda options: (family.buffers(options), rule_of(family, options)))
        self._numbers = Remembered(family.numbers)

    def numbers(self, group: dict[str, Any]) -> Any:
        """Return the numbers of ``group``, with the learning rate that it has now."""
        found, lr = self._numbers(group), group["lr"]
        if found.lr is not lr:  # nothing else in them depends on it
            found = self._numbers.result = found._replace(lr=number(lr))
        return found
