"""Run a script with accelerate's FSDP code on CPUs. For tests only.

    ACCELERATE_TORCH_DEVICE=cpu accelerate launch --config_file recipes/configs/fsdp2.yaml \
        -m tests.sharding.on_cpu recipes/quickstart.py --use_cpu false ...

Without it accelerate turns FSDP into DDP on the CPU, silently.
"""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

from accelerate.state import DistributedType, PartialState
from torch.distributed.fsdp import FullyShardedDataParallel


def take_gloo_for_an_accelerator() -> None:
    """accelerate wraps models by FSDP only where it believes to be on several accelerators."""
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


def keep_full_state_where_it_is() -> None:
    """FSDP1's offload of a full state to the CPU frees what it has "moved": there, it loses every optimizer's state."""
    original = FullyShardedDataParallel.state_dict_type

    def state_dict_type(module: Any, kind: Any, *configs: Any) -> Any:
        for config in configs:
            if hasattr(config, "offload_to_cpu"):
                config.offload_to_cpu = False
        return original(module, kind, *configs)

    FullyShardedDataParallel.state_dict_type = staticmethod(state_dict_type)


if __name__ == "__main__":
    os.environ["FSDP_SYNC_MODULE_STATES"] = "false"  # FSDP1's broadcast asks for a GPU
    take_gloo_for_an_accelerator()
    keep_full_state_where_it_is()
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)  # as python itself would, for the script's neighbours
    runpy.run_path(sys.argv[0], run_name="__main__")
