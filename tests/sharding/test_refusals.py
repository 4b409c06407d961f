"""What can't be exact is refused by a message that names it; a launch that gave less than asked for is told."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch

import gap_hf
from gap_hf.sharding import deepspeed
from gap_hf.sharding.launch import lone_process

from ..tiny import needs_compiler, run
from .refusals import REFUSALS

SAYS = {
    "flat_parameters": "is an FSDP1 flat parameter.*Set fsdp_use_orig_params: true",
    "outside_of_fsdp1": r"parameter 0 of group 0, of shape \(6, 5\), is not managed by FSDP1 while others are",
    "partial_parameter": r"has the placements \(Partial\(sum\),\)",
    "tensor_subclass": "is a .*TwoTensor, a tensor subclass that gap_hf does not know",
    "sharded_tensor_subclass": "is a .*TwoTensor, a tensor subclass that gap_hf does not know",
    "a_mesh_of_some_ranks": "parameter 0 of group 0 has 4 elements, but its fragments on all ranks make 2",
    "another_order_on_each_rank": "the ranks hand gap_hf different parameters, or the same ones in another order",
    "torch_zero": "ZeroRedundancyOptimizer gives each rank some of the parameters",
    "renamed_attribute": "can't read the parameter layout of deepspeed .*no attribute 'partition_size'",
    "overlapping_map": "parameter 1 of group 0 has 12 elements, but its fragments on all ranks overlap with others",
    "map_with_a_hole": "can't read the parameter layout of deepspeed",
    "shortened_map": "elements, but its fragments on all ranks make",
    "elastic_checkpoint": "with this DeepSpeed setting: zero_optimization.elastic_checkpoint",
    "universal_checkpoint": "with this DeepSpeed setting: checkpoint.load_universal",
    "secondary_partition": "with this DeepSpeed setting: zero_hpz_partition_size",
    "float16_without_zero": "with this DeepSpeed setting: fp16 with zero stage 0",
    "frozen_parameter": "DeepSpeed optimizes 2 of the 3 parameters of group 1",
    "partitioned_without_an_engine": "partitioned by DeepSpeed ZeRO 3 .* pass it to accelerator.prepare",
}


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    out = tmp_path_factory.mktemp("refusals")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    done = run([*torchrun, "-m", "tests.sharding.refusals", out], DS_ACCELERATOR="cpu")
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]


@needs_compiler
@pytest.mark.parametrize("name", REFUSALS)
def test_refused_on_every_rank(messages, name):
    for said in messages:
        assert name in said, "it got through"
        kind, _, message = said[name].partition(": ")
        assert kind == "RuntimeError"
        assert re.search(SAYS[name], message), message


@pytest.mark.parametrize(
    ("found", "setting"),
    [
        ({"swap_optimizer": True}, "offload_optimizer.device: nvme"),
        ({"params_in_nvme_and_cpu": True}, "offload_param.device: nvme"),
        ({"zenflow": True}, "zenflow"),
        ({"torch_autocast_gradscaler": object()}, "torch_autocast with float16"),
        ({"has_moe_layers": True}, "mixture-of-experts"),
        ({"model_parallel_world_size": 2}, "model, tensor or pipeline parallelism"),
    ],
)
def test_deepspeed_settings_that_need_other_hardware(found, setting):
    """These don't start here (no NVMe library, no accelerator); what DeepSpeed's wrapper says of them is looked at."""
    with pytest.raises(RuntimeError, match=f"this DeepSpeed setting: {setting}"):
        deepspeed.refuse_settings(SimpleNamespace(**found), None)


def test_another_wrapper_of_deepspeed_is_named():
    class ZenFlowZeroOptimizerSequential:
        pass

    with pytest.raises(RuntimeError, match="does not know DeepSpeed's ZenFlowZeroOptimizerSequential"):
        deepspeed.layout(None, ZenFlowZeroOptimizerSequential(), None)


# ---------------------------------------------------------------- downgraded launches
def gap_optimizer() -> gap_hf.Adam:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    return gap_hf.Adam([p], betas=[(0.5, 0.99), (0.9, 0.99)], type="switch")


def test_an_optimizer_that_took_over_the_groups():
    """accelerate does this with DeepSpeedCPUAdam."""
    taker = torch.optim.AdamW(gap_optimizer().param_groups)
    with pytest.raises(RuntimeError, match="replaced by torch.optim.adamw.AdamW.*zero_force_ds_cpu_optimizer"):
        taker.step()


def test_one_process_where_several_were_launched(caplog, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    gap_optimizer().step()
    assert "2 processes were launched, but they don't know of each other" in caplog.text


def test_a_lone_process_of_accelerate_launch(caplog, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert lone_process() is None
    monkeypatch.setenv("MASTER_PORT", "29500")
    gap_optimizer().step()
    assert "asked for several processes, but started only this one. Add --multi_gpu" in caplog.text
