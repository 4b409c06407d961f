"""DeepSpeed: what wraps an optimizer, which settings are refused, and the lists that its class must be added to."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from packaging.version import Version
from torch.optim import Optimizer

from .backend import Backend
from .heap import connected, instances
from .layout import Layout
from .refusal import Refusal
from .single import Whole
from .zero import DROPPED, NEWEST, OLDEST, HalfPrecision, Zero1BF16, Zero3, Zero12, installed

KNOWN: dict[str, Callable[[Optimizer, Any], Layout]] = {
    "DeepSpeedZeroOptimizer": Zero12,
    "DeepSpeedZeroOptimizer_Stage3": Zero3,
    "BF16_Optimizer": Zero1BF16,
    "FP16_UnfusedOptimizer": HalfPrecision,
}
"""DeepSpeed's wrappers by the names of their classes, and the layouts that they make."""


FLOAT16 = ("torch.float16", "float16", "fp16", "torch.half", "half")
"""DeepSpeed's names of float16."""


def get(config: Mapping[str, Any], *path: str) -> Any:
    """Look up a value in nested blocks of a JSON file; None if a block is missing or null."""
    found: Any = config
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def stage(config: Mapping[str, Any]) -> int:
    """Return the ZeRO stage that a configuration asks for."""
    return int(get(config, "zero_optimization", "stage") or 0)


SCALES_ONLY_FP16 = Version("0.18.6")
"""From this version on, a loss scale is for fp16 only."""


def divides_by_a_scale(wrapper: Any, dtype: torch.dtype) -> bool:
    """Whether ``wrapper`` is that of ZeRO 0 in this half precision and divides the gradients by a loss scale."""
    if type(wrapper).__name__ != "FP16_UnfusedOptimizer" or wrapper.fp16_groups[0][0].dtype != dtype:
        return False
    scale = getattr(wrapper, "loss_scale_config", wrapper)  # before 0.18.6 the wrapper has it all
    return getattr(scale, "use_grad_scaling", True) and (scale.dynamic_loss_scale or scale.cur_scale != 1)


SETTINGS = (
    Refusal(
        "`offload_optimizer.device: nvme`",
        "it is not tested, as offload to the CPU is",
        "set the device to cpu",
        lambda wrapper, engine: getattr(wrapper, "swap_optimizer", False),
        lambda config: get(config, "zero_optimization", "offload_optimizer", "device") == "nvme",
    ),
    Refusal(
        "`offload_param.device: nvme`",
        "it is not tested, as offload to the CPU is",
        "set the device to cpu",
        lambda wrapper, engine: getattr(wrapper, "params_in_nvme_and_cpu", False),
        lambda config: get(config, "zero_optimization", "offload_param", "device") == "nvme",
    ),
    Refusal(
        "`zenflow`",
        "it is not tested",
        "use plain ZeRO",
        lambda wrapper, engine: getattr(wrapper, "zenflow", False),
        lambda config: get(config, "zero_optimization", "zenflow"),
    ),
    Refusal(
        "`super_offload`",
        "it is not tested",
        "use plain ZeRO",
        lambda wrapper, engine: type(wrapper).__name__.startswith("SuperOffload"),
        lambda config: get(config, "zero_optimization", "offload_optimizer", "super_offload"),
    ),
    Refusal(
        "`zero_optimization.elastic_checkpoint`",
        "it does not carry GAP's buffers",
        "leave it out",
        lambda wrapper, engine: getattr(wrapper, "elastic_checkpoint", False),
        lambda config: get(config, "zero_optimization", "elastic_checkpoint"),
    ),
    Refusal(
        "`checkpoint.load_universal`",
        "the conversion drops GAP's buffers",
        "leave it out",
        lambda wrapper, engine: engine is not None and engine.load_universal_checkpoint(),
        lambda config: get(config, "checkpoint", "load_universal"),
    ),
    # engine.backward multiplies the loss by the scale for ZeROOptimizer only, so gradients follow it
    Refusal(
        "fp16 with ZeRO 0",
        "DeepSpeed divides the gradients by a loss scale that it never applied",
        "use bf16 or ZeRO 1",
        lambda wrapper, engine: divides_by_a_scale(wrapper, torch.float16),
        lambda config: stage(config) == 0 and get(config, "fp16", "enabled") is True,
    ),
    Refusal(
        "bf16 with ZeRO 0 before DeepSpeed 0.18.6",
        "there it divides these gradients, too, by a loss scale that it never applied",
        "use ZeRO 1, or a later version",
        lambda wrapper, engine: divides_by_a_scale(wrapper, torch.bfloat16),
        lambda config: stage(config) == 0 and get(config, "bf16", "enabled") is True and installed() < SCALES_ONLY_FP16,
    ),
    # without ZeRO, one scaler steps or skips all of it, as in torch
    Refusal(
        "`torch_autocast` with float16 under ZeRO 1 to 3",
        "its loss scaler may skip the step of one parameter group and take that of another",
        "use bfloat16 there, or DeepSpeed's own fp16",
        lambda wrapper, engine: getattr(wrapper, "torch_autocast_gradscaler", None) is not None,
        lambda config: (
            stage(config) > 0
            and get(config, "torch_autocast", "enabled")
            and get(config, "torch_autocast", "dtype") in FLOAT16
        ),
    ),
    Refusal(
        "mixture-of-experts parameter groups",
        "ranks hold different experts",
        "use a model without DeepSpeed's expert parallelism",
        lambda wrapper, engine: getattr(wrapper, "has_moe_layers", False),
        lambda config: get(config, "expert_parallel", "enabled"),
    ),
    Refusal(
        "model, tensor or pipeline parallelism",
        "ranks hold different parameters",
        "use data parallelism only, or FSDP2 with tensor parallelism",
        lambda wrapper, engine: (
            getattr(wrapper, "model_parallel_world_size", 1) > 1
            or getattr(wrapper, "mpu", None) is not None
            or type(engine).__name__ == "PipelineEngine"
        ),
        lambda config: int(get(config, "tensor_parallel", "autotp_size") or 1) > 1,
    ),
    Refusal(
        "sequence parallelism, or another data-parallel group than all ranks",
        "the scores are added up over all ranks",
        "use data parallelism only",
        lambda wrapper, engine: (
            dist.is_initialized()
            and dist.get_world_size(getattr(wrapper, "dp_process_group", None)) != dist.get_world_size()
        ),
        lambda config: int(get(config, "sequence_parallel_size") or 1) > 1 and "data_parallel_size" in config,
    ),
    Refusal(
        "`zero_hpz_partition_size` above 1",
        "it is not tested",
        "leave it out",
        lambda wrapper, engine: engine is not None and engine.zero_hpz_partition_size() > 1,
        lambda config: int(get(config, "zero_optimization", "zero_hpz_partition_size") or 1) > 1,
    ),
    Refusal(
        "`compile.deepcompile`",
        "it is not tested",
        "leave it out",
        lambda wrapper, engine: engine is not None and engine.is_deepcompile_enabled(),
        lambda config: get(config, "compile", "deepcompile"),
    ),
)
"""The refused settings, told from DeepSpeed's wrapper (None if there is none) and its engine (None if none yet)."""

ITS_OWN = Refusal(
    '`"optimizer"`',
    "DeepSpeed builds that one in GAP's place",
    "remove the block",
    in_config=lambda config: "optimizer" in config,
)
UNKNOWN = Refusal(
    "wrappers of DeepSpeed that gap_hf does not know (of 1-bit Adam, for example)",
    "it can't tell which elements belong to which parameter",
    "drop that setting",
    in_running=lambda wrapper: type(wrapper).__name__ not in KNOWN,
)
TWICE = Refusal(
    "the same optimizer in two calls of `deepspeed.initialize`",
    "each has a layout of its own",
    "build a new optimizer for each call",
    in_running=lambda wrappers: len(wrappers) > 1,
)
PARTITIONED = Refusal(
    "parameters partitioned by ZeRO 3 (`zero.Init` or `HfDeepSpeedConfig`) without an engine",
    "it would step what is left of them here, which is nothing",
    "pass model and optimizer to `accelerator.prepare` or `deepspeed.initialize`",
    in_running=lambda params: any(hasattr(p, "ds_id") for p in params),
)


def loaded() -> bool:
    """Whether DeepSpeed's engine has been imported; if not, it can't have wrapped anything."""
    return "deepspeed.runtime.engine" in sys.modules


def find(optimizer: Optimizer) -> tuple[Any, Any]:
    """Find the ZeRO wrapper and the engine around ``optimizer``, each None if there is none (yet)."""
    if not loaded() or not connected():  # DeepSpeed connects even a single process
        return None, None
    from deepspeed.runtime.base_optimizer import DeepSpeedOptimizer
    from deepspeed.runtime.engine import DeepSpeedEngine

    wrappers = [found for found in instances(DeepSpeedOptimizer) if vars(found).get("optimizer") is optimizer]
    if TWICE.is_running(wrappers):
        raise RuntimeError(TWICE.message(f"{len(wrappers)} DeepSpeed wrappers hold this optimizer"))
    inner = wrappers[0] if wrappers else optimizer
    engines = [found for found in instances(DeepSpeedEngine) if vars(found).get("optimizer") is inner]
    return (wrappers[0] if wrappers else None), (engines[0] if engines else None)


def is_being_built(wrapper: Any, engine: Any) -> bool:
    """Whether DeepSpeed is still constructing ``wrapper``.

    While it is built, the wrapper of ZeRO 0 in half precision takes a step with zero gradients, to make torch's
    optimizers allocate their state (``fp16/unfused_optimizer.py``, ``initialize_optimizer_states``). If that counted as
    a step, it would decay the parameters and shift the bias correction.
    """
    if engine is not None or type(wrapper).__name__ != "FP16_UnfusedOptimizer":
        return False
    return not any(bool(p.grad.any()) for group in wrapper.fp32_groups for p in group if p.grad is not None)


def refuse_settings(wrapper: Any, engine: Any) -> None:
    """Raise RuntimeError for the settings that are refused, naming all of them."""
    if found := [refusal for refusal in SETTINGS if refusal.is_running(wrapper, engine)]:
        raise RuntimeError(
            "gap_hf is not exact, or not tested, with this DeepSpeed setting: "
            + " ".join(refusal.message() for refusal in found)
        )


def layout(optimizer: Optimizer, wrapper: Any, engine: Any) -> Layout:
    """Return the layout that ``wrapper`` has given the optimizer's parameters.

    Raises:
        RuntimeError: GAP would not be exact under some setting, or this version of DeepSpeed is built differently.
    """
    name = type(wrapper).__name__
    version = installed()
    try:
        refuse_settings(wrapper, engine)
        if UNKNOWN.is_running(wrapper):
            raise RuntimeError(
                UNKNOWN.message(
                    f"gap_hf does not know DeepSpeed's {name} (deepspeed {version}), only {', '.join(KNOWN)}"
                )
            )
        return KNOWN[name](optimizer, wrapper)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise RuntimeError(
            f"gap_hf can't read the parameter layout of deepspeed {version}: {name}: {error!r}. It was built against "
            f"deepspeed {OLDEST} to {NEWEST}; install one of these, or report this one."
        ) from error


class DeepSpeed(Backend):
    """The backend of optimizers inside one of DeepSpeed's wrappers: ZeRO 1 to 3, and 0 in half precision."""

    name = "DeepSpeed"
    refusals = (*SETTINGS, ITS_OWN, UNKNOWN, TWICE, DROPPED)

    def claims(self, optimizer: Optimizer) -> bool:
        wrapper, _ = find(optimizer)
        return wrapper is not None

    def layout(self, optimizer: Optimizer) -> Layout | None:
        wrapper, engine = find(optimizer)
        return None if is_being_built(wrapper, engine) else layout(optimizer, wrapper, engine)

    def prepare(self, optimizer_class: type[Optimizer]) -> None:
        """Tell DeepSpeed and accelerate that the class works with ZeRO, so that no flag has to be set by hand."""
        if not loaded():
            return
        from deepspeed.runtime.zero import utils

        if optimizer_class not in utils.ZERO_SUPPORTED_OPTIMIZERS:
            utils.ZERO_SUPPORTED_OPTIMIZERS.append(optimizer_class)
        if "accelerate.state" in sys.modules:
            from accelerate.state import AcceleratorState

            # without this, accelerate replaces the optimizer by DeepSpeedCPUAdam under offload (accelerator.py)
            if plugin := AcceleratorState._shared_state.get("deepspeed_plugins"):
                for each in plugin.values() if isinstance(plugin, dict) else [plugin]:
                    each.deepspeed_config["zero_force_ds_cpu_optimizer"] = False


class Unwrapped(Backend):
    """The backend of ZeRO 0 in fp32, whose engine holds the bare optimizer, and of ZeRO 3 without an engine."""

    name = "DeepSpeed without a wrapper"
    refusals = (PARTITIONED,)

    def claims(self, optimizer: Optimizer) -> bool:
        _, engine = find(optimizer)
        return engine is not None or PARTITIONED.is_running(parameters(optimizer))

    def layout(self, optimizer: Optimizer) -> Layout:
        if PARTITIONED.is_running(parameters(optimizer)):
            raise RuntimeError(
                PARTITIONED.message(
                    "these parameters were partitioned by DeepSpeed ZeRO 3 (zero.Init or HfDeepSpeedConfig), but the "
                    "optimizer is not wrapped by a DeepSpeed engine"
                )
            )
        _, engine = find(optimizer)
        refuse_settings(None, engine)
        return Whole(optimizer.param_groups)


def parameters(optimizer: Optimizer) -> list[Any]:
    """All parameters of ``optimizer``."""
    return [p for group in optimizer.param_groups for p in group["params"]]
