"""What DeepSpeed's objects and its configuration say of the settings that are refused."""

from types import SimpleNamespace

import pytest

from gap_hf.sharding import deepspeed
from gap_hf.sharding.refusal import configured


@pytest.mark.parametrize(
    ("found", "setting"),
    [
        ({"swap_optimizer": True}, "offload_optimizer.device: nvme"),
        ({"params_in_nvme_and_cpu": True}, "offload_param.device: nvme"),
        ({"zenflow": True}, "zenflow"),
        ({"torch_autocast_gradscaler": object()}, "torch_autocast with float16"),
        ({"has_moe_layers": True}, "mixture-of-experts"),
        ({"model_parallel_world_size": 2}, "model, tensor or pipeline parallelism"),
        ({"elastic_checkpoint": True}, "zero_optimization.elastic_checkpoint: .*. Leave it out"),
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


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "offload_optimizer.device: nvme"),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, "offload_param.device: nvme"),
        ({"zero_optimization": {"stage": 2, "zenflow": {"topk_ratio": 0.1}}}, "zenflow"),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"super_offload": True}}}, "super_offload"),
        ({"zero_optimization": {"elastic_checkpoint": True}}, "zero_optimization.elastic_checkpoint"),
        ({"checkpoint": {"load_universal": True}}, "checkpoint.load_universal"),
        ({"fp16": {"enabled": True}}, "fp16 with ZeRO 0"),
        (
            {"zero_optimization": {"stage": 1}, "torch_autocast": {"enabled": True, "dtype": "float16"}},
            "torch_autocast with float16 under ZeRO 1 to 3",
        ),
        ({"expert_parallel": {"enabled": True, "autoep_size": 2}}, "mixture-of-experts parameter groups"),
        ({"tensor_parallel": {"autotp_size": 2}}, "model, tensor or pipeline parallelism"),
        (
            {"sequence_parallel_size": 2, "data_parallel_size": 1},
            "sequence parallelism, or another data-parallel group than all ranks",
        ),
        ({"zero_optimization": {"zero_hpz_partition_size": 2}}, "zero_hpz_partition_size above 1"),
        ({"compile": {"deepcompile": True}}, "compile.deepcompile"),
        ({"optimizer": {"type": "AdamW"}}, '"optimizer"'),
    ],
)
def test_settings_in_a_configuration(config, setting):
    assert [found.name for found in configured(deepspeed.DeepSpeed.refusals, config)] == [setting]


@pytest.mark.parametrize(
    "config",
    [
        {"zero_optimization": {"stage": 1}, "torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
        {"zero_optimization": {"stage": 1}, "torch_autocast": {"enabled": False, "dtype": "float16"}},
        {"torch_autocast": {"enabled": True, "dtype": "float16"}},
        {"zero_optimization": {"stage": 2, "offload_optimizer": None}, "fp16": {"enabled": True}, "compile": None},
    ],
)
def test_good_configurations(config):
    assert configured(deepspeed.DeepSpeed.refusals, config) == []
