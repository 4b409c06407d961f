"""Count what a step asks of the network and of the host."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from .layouts import Wrapped


class Counter(TorchDispatchMode):
    """Counts collectives, with their elements, and the operations for which the host waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.collectives: list[tuple[str, int]] = []
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            tensors = args[0] if isinstance(args[0], list) else [args[0]]
            self.collectives.append((func._opname, sum(t.numel() for t in tensors)))
        # .item(), .tolist(), bool(tensor), and boolean indices, whose result has a size that only the device knows
        self.waits += func._opname in ("_local_scalar_dense", "nonzero", "masked_select")
        return func(*args, **(kwargs or {}))


def count(wrapped: Wrapped, grads: list[Any]) -> dict[str, Any]:
    """Take one step of ``wrapped``.

    Returns:
        The optimizer's own collectives in it as (name, elements), and how often the host waits inside the reduction.
    """
    optimizer = wrapped.optimizer
    layout = optimizer.layout()
    in_step, in_reduction = Counter(), Counter()
    step, reduce = optimizer.step, layout.reduce

    def counted_step(*args: Any, **kwargs: Any) -> Any:
        with in_step:
            return step(*args, **kwargs)

    def counted_reduce(*args: Any) -> Any:
        with in_reduction:
            return reduce(*args)

    optimizer.step, layout.reduce = counted_step, counted_reduce
    try:
        wrapped.step(grads)
    finally:
        del optimizer.step, layout.reduce
    return {"collectives": in_step.collectives, "waits_in_reduction": in_reduction.waits}
