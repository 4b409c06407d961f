"""The options that torch's own tests give its optimizers: torch ships the list of them."""

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple


class Inputs(NamedTuple):
    """What torch's tests give one class.

    Attributes:
        good: by description, the options of a constructor that works.
        bad: by description, parameters (or None), options, the type of the error, and its text as a pattern.
    """

    good: dict[str, dict[str, Any]]
    bad: dict[str, tuple[Any, dict[str, Any], type[Exception], str]]


def read() -> dict[str, Inputs]:
    """Return the inputs for parameters on a CPU, by the class's name."""
    import torch
    from torch.testing._internal.common_optimizers import optim_db

    found = {}
    for info in optim_db:
        if info.optim_cls not in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
            continue
        bad = {}
        for entry in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
            given = entry.optimizer_error_input
            bad[f"{given.desc} {given.kwargs}"] = (given.params, given.kwargs, entry.error_type, entry.error_regex)
        good = {given.desc: given.kwargs for given in info.optim_inputs_func(device="cpu", dtype=torch.float32)}
        found[info.optim_cls.__name__] = Inputs(good, bad)
    return found


@functools.cache
def of_torch() -> dict[str, Inputs]:
    """Call ``read`` in a process of its own: its import freezes the flags of ``torch.backends``."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(read).result(timeout=120)
