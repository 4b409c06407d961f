"""What the doctor says of accelerate configs."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gap_hf.cli import app
from gap_hf.doctor.config import judge, read
from gap_hf.doctor.finding import State

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
EXACT = {
    "single": "one process: exact",
    "ddp": "DDP, 2 processes: exact",
    "ddp_cpu": "DDP, 2 processes: exact",
    "fsdp1": "FSDP1, 2 processes: exact",
    "fsdp2": "FSDP2, 2 processes: exact",
    "hsdp": "FSDP2, 4 processes: exact",
    "zero1": "ZeRO 1, 2 processes: exact",
    "zero2": "ZeRO 2, 2 processes: exact",
    "zero3": "ZeRO 3, 2 processes: exact",
    "zero3_offload": "ZeRO 3, 2 processes: exact",
}


def test_ready_configs_are_exact():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(EXACT)
    for name, verdict in EXACT.items():
        *_, last = judge(read(CONFIGS / f"{name}.yaml"))
        assert last.state is State.GOOD
        assert last.text.startswith(verdict), name


BASE = {"compute_environment": "LOCAL_MACHINE", "num_machines": 1, "num_processes": 2, "mixed_precision": "no"}
FSDP = {**BASE, "distributed_type": "FSDP"}
ZERO = {**BASE, "distributed_type": "DEEPSPEED"}


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({**BASE, "distributed_type": "NO"}, "accelerate starts only one process for it"),
        ({**BASE, "distributed_type": "MULTI_CPU"}, "without mpirun_config accelerate starts one process"),
        ({**FSDP, "use_cpu": True, "fsdp_config": {"fsdp_version": 2}}, "silently turns FSDP into DDP"),
        ({**FSDP, "fsdp_config": {"fsdp_use_orig_params": False}}, "several parameters are merged into one"),
        ({**ZERO, "use_cpu": True, "deepspeed_config": {"zero_stage": 2}}, "ignores DeepSpeed"),
        ({**ZERO, "deepspeed_config": {"zero_stage": 3, "offload_param_device": "nvme"}}, "offload to the CPU is"),
        ({**ZERO, "mixed_precision": "fp16", "deepspeed_config": {"zero_stage": 0}}, "use bf16 or ZeRO 1"),
        ({**ZERO, "deepspeed_config": {"deepspeed_config_file": "nowhere.json"}}, "nowhere.json can't be read"),
        ({**BASE, "distributed_type": "MEGATRON_LM"}, "a backend that gap_hf does not know"),
        ({**BASE, "distributed_type": "MULTI_GPU", "mixed_precision": "fp8"}, "bf16 and fp16 are"),
        (
            {**FSDP, "fsdp_config": {"fsdp_version": 2}, "parallelism_config": {"parallelism_config_cp_size": 2}},
            "cp_size",
        ),
    ],
)
def test_refused(tmp_path, config, what):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    found = judge(read(path))
    assert found[-1].state is State.BAD
    assert any(what in f"{finding.what} {finding.text}" for finding in found), found
    result = CliRunner().invoke(app, ["doctor", "--config", str(path)], env={"COLUMNS": "200"})
    assert result.exit_code == 1
    assert "refused" in result.stdout


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ({"optimizer": {"type": "AdamW"}}, '"optimizer"'),
        (
            {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}},
            "offload_optimizer.device: nvme",
        ),
        ({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 2}}, "zero_hpz_partition_size above 1"),
        ({"zero_optimization": {"stage": 2, "elastic_checkpoint": True}}, "zero_optimization.elastic_checkpoint"),
        ({"zero_optimization": {"stage": 2, "zenflow": {"topk_ratio": 0.1}}}, "zenflow"),
        ({"zero_optimization": {"stage": 1}, "checkpoint": {"load_universal": True}}, "checkpoint.load_universal"),
        ({"zero_optimization": {"stage": 3}, "compile": {"deepcompile": True}}, "compile.deepcompile"),
        ({"fp16": {"enabled": True}}, "fp16 with ZeRO 0"),
        (
            {"zero_optimization": {"stage": 2}, "torch_autocast": {"enabled": True, "dtype": "float16"}},
            "torch_autocast with float16 under ZeRO 1 to 3",
        ),
        (
            {"zero_optimization": {"stage": 2}, "tensor_parallel": {"autotp_size": 2}},
            "model, tensor or pipeline parallelism",
        ),
    ],
)
def test_refused_in_a_deepspeed_file(tmp_path, file, what):
    (tmp_path / "zero.json").write_text(json.dumps(file))
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({**ZERO, "deepspeed_config": {"deepspeed_config_file": str(tmp_path / "zero.json")}})
    )
    found = judge(read(path))
    assert [finding.what for finding in found if finding.state is State.BAD] == [what, "verdict"]


@pytest.mark.parametrize("fp16", [{"enabled": "auto"}, None])
def test_accelerate_fills_in_the_precision(tmp_path, fp16):
    (tmp_path / "zero.json").write_text(json.dumps({"fp16": fp16}))
    config = {**ZERO, "mixed_precision": "fp16"}
    config["deepspeed_config"] = {"deepspeed_config_file": str(tmp_path / "zero.json")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert "fp16 with ZeRO 0" in [finding.what for finding in judge(read(path))]


def test_layers_that_zero3_gathers_as_a_whole_are_no_expert_parallelism(tmp_path):
    path = tmp_path / "config.yaml"
    options = {"zero_stage": 3, "deepspeed_moe_layer_cls_names": "MixtralSparseMoeBlock"}
    path.write_text(yaml.safe_dump({**ZERO, "deepspeed_config": options}))
    *notes, last = judge(read(path))
    assert last.state is State.GOOD
    assert "deepspeed_moe_layer_cls_names" in [note.what for note in notes]


def test_good_deepspeed_file(tmp_path):
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}, "offload_param": None}
    file = {"zero_optimization": zero, "bf16": {"enabled": True}, "fp16": None}
    (tmp_path / "zero.json").write_text(json.dumps(file))
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({**ZERO, "deepspeed_config": {"deepspeed_config_file": str(tmp_path / "zero.json")}})
    )
    *notes, last = judge(read(path))
    assert last.text.startswith("ZeRO 2, 2 processes: exact")
    assert "zero_force_ds_cpu_optimizer" in [note.what for note in notes]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no such file"),
        ("{", "accelerate can't read it"),
        ("distributed_type: WHAT\n", "accelerate can't read it"),
        ("compute_environment: AMAZON_SAGEMAKER\n", "config.yaml"),
    ],
)
def test_bad_files(tmp_path, content, says):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    result = CliRunner().invoke(app, ["doctor", "--config", str(path)])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
