"""Find the backend's own objects.

An optimizer is not told who wraps it: neither FSDP1's slices nor DeepSpeed's flat partitions lead back to the handle
that knows their layout. Patching the backends' constructors would find them too, but only if done early enough, and it
would change foreign code; looking among the live objects, once, does neither.
"""

import gc
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def connected() -> bool:
    """Whether processes are connected, without which nothing can shard an optimizer.

    A search takes a tenth of a second where many packages are loaded, at the first step of every optimizer.
    """
    return dist.is_available() and dist.is_initialized()


def instances(*classes: type[T]) -> list[T]:
    """All live objects whose type is one of ``classes`` or derived from them."""
    # type(), not isinstance(): the latter asks proxies for their __class__, which runs foreign code
    return [found for found in gc.get_objects() if issubclass(type(found), classes)]
