"""What the server of ``launch`` imports before it forks, and the environment that it hands on."""

import gc
import os
import shutil
import sys
from pathlib import Path

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "DS_ACCELERATOR": "cpu",
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    # beside the interpreter lies ninja, which DeepSpeed's build looks for
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
}

import accelerate  # noqa: F401
import deepspeed  # noqa: F401
import torch
import torch.distributed.checkpoint
import torch.distributed.fsdp
import transformers.integrations.deepspeed
import transformers.trainer  # noqa: F401
from deepspeed.accelerator import get_accelerator

import gap_hf  # noqa: F401

torch.set_num_threads(1)
if shutil.which(os.environ.get("CXX", "c++")):
    # Built and loaded here, once. A process that is killed while it does so leaves torch's lock file behind, and every
    # later one waits for that to go away.
    get_accelerator().create_op_builder("ShareMemCommBuilder").load()
gc.collect()
gc.freeze()  # a new optimizer looks for its wrapper among the live objects: none of these is one
