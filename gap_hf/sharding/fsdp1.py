"""FSDP1 (``torch.distributed.fsdp.FullyShardedDataParallel``) with ``use_orig_params=True``.

Each original parameter stays in the optimizer as a 1-D slice, empty on the ranks that own none of it. Nothing on the
parameter says how large the whole is; the handle of the flat parameter it was folded into does.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp._flat_param import FlatParamHandle, HandleShardingStrategy

from .layout import InPieces, ParameterLayout, Piece
from .live import instances


def unsharded(handle: FlatParamHandle) -> bool:
    """Whether every rank holds the whole flat parameter."""
    return handle._sharding_strategy == HandleShardingStrategy.NO_SHARD


class FlatShards(InPieces, ParameterLayout):
    """Slices of FSDP1's flat parameters.

    Raises:
        RuntimeError: ``use_orig_params=False``, or a parameter outside of FSDP among its slices.
    """

    def __init__(self, param_groups: list[dict[str, Any]]) -> None:
        found = {}
        for handle in instances(FlatParamHandle):
            for i, p in enumerate(handle.flat_param._params or ()):
                found[id(p)] = (handle, i)
        for g, group in enumerate(param_groups):
            for i, p in enumerate(group["params"]):
                if getattr(p, "_is_flat_param", False):
                    raise RuntimeError(
                        f"parameter {i} of group {g} is an FSDP1 flat parameter: several parameters in one, in which "
                        "GAP cannot choose for each (and weight decay cannot spare biases and norms). Set "
                        "fsdp_use_orig_params: true (use_orig_params=True), or use FSDP2 (fsdp_version: 2)."
                    )
                if id(p) not in found:
                    raise RuntimeError(
                        f"parameter {i} of group {g}, of shape {tuple(p.shape)}, is not managed by FSDP1 while others "
                        "are: its gradient is not averaged over the ranks, so they would choose differently. Wrap its "
                        "module too, or leave it out of the optimizer."
                    )
        self.home = {id(p): found[id(p)] for group in param_groups for p in group["params"]}
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

    def owns(self, p: Tensor) -> bool:
        """Whether this rank holds the first element of ``p``, in the first replica."""
        handle, i = self.home[id(p)]
        if 0 not in self.holders(handle):
            return False
        info = handle.flat_param._shard_param_infos[i]
        return unsharded(handle) or (info.in_shard and info.intra_param_start_idx == 0)

    @staticmethod
    def holders(handle: FlatParamHandle) -> list[int]:
        """The ranks that hold one copy of the flat parameter between them, this one among them."""
        return [dist.get_rank()] if unsharded(handle) else dist.get_process_group_ranks(handle.process_group)

    def pieces(self, g: int, i: int) -> list[Piece]:
        p = self.filed[g][i]
        handle, index = self.home[id(p)]
        if not p.numel() or 0 not in self.holders(handle):
            return []
        info = handle.flat_param._shard_param_infos[index]
        return [Piece(p, torch.Tensor.detach, 0 if unsharded(handle) else info.intra_param_start_idx or 0)]

    def covered(self) -> list[list[float]]:
        return [[p.numel() / self.copies(p) for p in group] for group in self.parameters]

    def describe(self) -> str:
        strategies = {handle._sharding_strategy.name for handle, _ in self.home.values()}
        return "FSDP1 slices, " + ", ".join(sorted(strategies))
