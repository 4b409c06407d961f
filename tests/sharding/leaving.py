"""How a rank ends."""

import contextlib
import os
import sys
from typing import NoReturn

import torch.distributed as dist


def leave() -> NoReturn:
    """End this process when all ranks are done, without Python's own end.

    Gloo's threads may still hold tensors then; to let go of them they need the interpreter, and if that is on its way
    out, one in some hundred processes is aborted: https://github.com/pytorch/pytorch/pull/179291.
    """
    if dist.is_initialized():
        dist.barrier()  # a process that leaves the group while another still uses it can abort that one
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
