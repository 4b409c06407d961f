"""The replacement of functions of transformers, which has no public hooks there."""

import functools
from collections.abc import Callable
from typing import Any


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace ``owner.name`` by a function that calls ``around`` with the original and the arguments.

    A second call changes nothing; neither does the first where there is no such function.

    Args:
        owner: a class or a module.
        name: the name of a function or a static method in it.
        around: what is called.
    """
    original = getattr(owner, name, None)
    if original is None or getattr(original, "answers_for_gap", False):
        return

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    wrapped.answers_for_gap = True  # type: ignore[attr-defined]
    setattr(owner, name, staticmethod(wrapped) if isinstance(vars(owner).get(name), staticmethod) else wrapped)
