"""The backend of FSDP1 (``torch.distributed.fsdp.FullyShardedDataParallel``) with ``use_orig_params=True``.

Each original parameter stays in the optimizer as a 1-D slice, which is empty on ranks that own none of it. The slice
does not say how large the whole parameter is; the handle of the flat parameter that it was merged into does.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from .backend import Backend, MakesState
from .heap import instances
from .refusal import Refusal
from .sharded import Stretches

MERGED = Refusal(
    "`fsdp_use_orig_params: false`",
    "several parameters are merged into one, in which GAP can't choose for each, and weight decay can't spare biases "
    "and norms",
    "set `fsdp_use_orig_params: true` (`use_orig_params=True`), or use FSDP2 (`fsdp_version: 2`)",
    in_running=lambda p: getattr(p, "_is_flat_param", False),
    in_config=lambda config: (
        str(config.get("fsdp_version", 1)) != "2"
        and str(config.get("fsdp_use_orig_params", True)).lower() not in ("true", "1", "yes", "y", "on")
    ),
)
UNMANAGED = Refusal(
    "FSDP1 together with a parameter that it does not manage",
    "its gradient is not averaged over the ranks, so they would choose differently",
    "wrap its module too, or leave it out of the optimizer",
    in_running=lambda p, managed: id(p) not in managed,
)


def unsharded(handle: Any) -> bool:
    """Whether every rank holds the whole flat parameter of a ``FlatParamHandle``."""
    return handle._sharding_strategy.name == "NO_SHARD"


class FlatShards(Stretches):
    """The layout of slices of FSDP1's flat parameters.

    Raises:
        RuntimeError: ``use_orig_params`` is False, or a parameter that FSDP does not manage is among the slices.
    """

    saves_own_shapes = False
    saves_one_dtype = True

    def __init__(self, param_groups: list[dict[str, Any]]) -> None:
        from torch.distributed.fsdp._flat_param import FlatParamHandle

        found = {}
        for handle in instances(FlatParamHandle):
            for i, p in enumerate(handle.flat_param._params or ()):
                found[id(p)] = (handle, i)
        for g, group in enumerate(param_groups):
            for i, p in enumerate(group["params"]):
                where = f"parameter {i} of group {g}"
                if MERGED.is_running(p):
                    raise RuntimeError(MERGED.message(f"{where} is an FSDP1 flat parameter"))
                if UNMANAGED.is_running(p, found):
                    shape = tuple(p.shape)
                    raise RuntimeError(
                        UNMANAGED.message(f"{where}, of shape {shape}, is not managed by FSDP1 while others are")
                    )
        self.home = {id(p): found[id(p)] for group in param_groups for p in group["params"]}
        self.with_first: dict[Any, bool] = {}  # by process group: a list of its ranks for each parameter is too long
        super().__init__(param_groups)
        owned = [self.owns(p) for group in self.parameters for p in group]
        self.owned = torch.tensor(owned, dtype=torch.bool, device=self.device)

    def whole_shape(self, p: Tensor) -> torch.Size:
        handle, i = self.home[id(p)]
        return handle.flat_param._shapes[i]

    def copies(self, p: Tensor) -> int:
        handle, _ = self.home[id(p)]
        if unsharded(handle):
            return dist.get_world_size()
        return dist.get_world_size() // dist.get_world_size(handle.process_group)

    def start(self, p: Tensor) -> int:
        handle, i = self.home[id(p)]
        return 0 if unsharded(handle) else handle.flat_param._shard_param_infos[i].intra_param_start_idx or 0

    def owns(self, p: Tensor) -> bool:
        """Whether this rank holds the first element of ``p``, in the first replica."""
        handle, i = self.home[id(p)]
        if not self.holds_first(handle):
            return False
        info = handle.flat_param._shard_param_infos[i]
        return unsharded(handle) or (info.in_shard and info.intra_param_start_idx == 0)

    def holds_first(self, handle: Any) -> bool:
        """Whether rank 0 is among the ranks that hold, with this one, a copy of the flat parameter between them."""
        if unsharded(handle):
            return dist.get_rank() == 0
        group = handle.process_group
        if group not in self.with_first:
            self.with_first[group] = 0 in dist.get_process_group_ranks(group)
        return self.with_first[group]

    def is_first(self, g: int, i: int) -> bool:
        handle, _ = self.home[id(self.filed[g][i])]
        return self.holds_first(handle)

    def describe(self) -> str:
        strategies = {handle._sharding_strategy.name for handle, _ in self.home.values()}
        return "FSDP1 slices, " + ", ".join(sorted(strategies))


class FSDP1(Backend):
    """The backend of parameters that FSDP1 has marked as its slices or flat parameters."""

    name = "FSDP1"
    refusals = (MERGED, UNMANAGED)

    def claims(self, optimizer: Optimizer | MakesState) -> bool:
        # torch/distributed/fsdp/_common_utils.py
        return any(
            getattr(p, "_fsdp_flattened", False) or getattr(p, "_is_flat_param", False)
            for group in optimizer.param_groups
            for p in group["params"]
        )

    def layout(self, optimizer: Optimizer) -> FlatShards:
        return FlatShards(optimizer.param_groups)

    def before_state_dict(self, optimizer: MakesState) -> None:
        """Make the state before the first step, too.

        FSDP1's sharded checkpoints load only what the dictionary they are loaded into already has (accelerate's
        ``load_fsdp_optimizer``), and silently drop the rest.
        """
        if optimizer.state or not self.claims(optimizer):
            return
        for g, group in enumerate(optimizer.param_groups):
            for p in group["params"]:
                if p.requires_grad and p.numel():
                    optimizer.make_state(g, p)
