"""What can't be exact is refused on every rank of a real launch, by a message that names it."""

import json
import re
import sys

import pytest

from gap_hf.sharding.deepspeed import SCALES_ONLY_FP16, installed

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
    "candidate_of_whole_parameters": r"gap_over's candidate adafactor needs whole parameters \(one process, DDP, Deep",
    "family_of_whole_parameters": r"the toy family needs whole parameters \(one process, DDP, DeepSpeed ZeRO 0\), but",
    "renamed_attribute": "can't read the parameter layout of deepspeed .*no attribute 'partition_size'",
    "overlapping_map": "parameter 1 of group 0 has 12 elements, but its fragments on all ranks overlap with others",
    "map_with_a_hole": "can't read the parameter layout of deepspeed",
    "shortened_map": "elements, but its fragments on all ranks make",
    "elastic_checkpoint": "with this DeepSpeed setting: zero_optimization.elastic_checkpoint",
    "universal_checkpoint": "with this DeepSpeed setting: checkpoint.load_universal",
    "secondary_partition": "with this DeepSpeed setting: zero_hpz_partition_size",
    "float16_without_zero": "with this DeepSpeed setting: fp16 with ZeRO 0",
    **({"bfloat16_without_zero": "DeepSpeed setting: bf16 with ZeRO 0"} if installed() < SCALES_ONLY_FP16 else {}),
    "parameter_elsewhere": "can't read the parameter layout of deepspeed .*a parameter of group 0 begins at 0, not at",
    "float16_autocast": "with this DeepSpeed setting: torch_autocast with float16",
    "sequence_parallelism": "with this DeepSpeed setting: sequence parallelism",
    "frozen_parameter": "DeepSpeed optimizes 2 of the 3 parameters of group 1",
    "partitioned_without_an_engine": "partitioned by DeepSpeed ZeRO 3 .* Pass model and optimizer to accelerator",
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
