"""A search for the backend's own objects.

An optimizer is not told who wraps it: neither FSDP1's slices nor DeepSpeed's flat partitions lead back to the handle
that knows their layout. Patching the backends' constructors would find them too, but only if done early enough, and it
would change foreign code. A search among all objects that Python's garbage collector knows has neither drawback.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def connected() -> bool:
    """Whether processes are connected; if not, nothing can shard an optimizer, and no search is needed."""
    return dist.is_available() and dist.is_initialized()


class Scan:
    """A list of all objects, made when they are first asked for; to be let go of by ``clear``.

    The list has the scan itself in it. Left alone, this circle would keep every object alive until the next collection,
    and a tuple that is still being made (``tuple(...)`` around ``accelerator.prepare``'s work) must have no other owner
    when it is finished: CPython raises SystemError.
    """

    @cached_property
    def objects(self) -> list[Any]:
        """The objects that the garbage collector knows."""
        return gc.get_objects()

    @cached_property
    def types(self) -> dict[int, type]:
        """The objects' types by their ids, since a metaclass may have made its classes unhashable."""
        # type(), not isinstance(): the latter asks proxies for their __class__, which runs foreign code
        return {id(kind): kind for kind in map(type, self.objects)}

    def clear(self) -> None:
        """Let go of all objects."""
        vars(self).clear()


_shared: ContextVar[Scan | None] = ContextVar("shared scan", default=None)


@contextmanager
def one_scan() -> Iterator[None]:
    """Let all calls of ``instances`` inside share one scan, which takes up to a few tenths of a second."""
    scan = Scan()
    token = _shared.set(scan)
    try:
        yield
    finally:
        _shared.reset(token)
        scan.clear()


def instances(*classes: type[T]) -> list[T]:
    """Find all objects whose type is one of ``classes`` or derived from them."""
    if (scan := _shared.get()) is None:
        with one_scan():
            return instances(*classes)
    wanted = {key for key, kind in scan.types.items() if issubclass(kind, classes)}
    return [found for found in scan.objects if id(type(found)) in wanted] if wanted else []
