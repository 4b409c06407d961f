"""One process, or replicas that hold identical gradients (DDP): every parameter is whole, nothing is reduced."""

from typing import Any

from .layout import ParameterLayout, Part


class Whole(ParameterLayout):
    """Every parameter is whole on every rank."""

    def receive(self, param_groups: list[dict[str, Any]], by_parameter: bool = True) -> list[Part]:
        for g, group in enumerate(param_groups):
            if len(group["params"]) != group["count"]:
                raise RuntimeError(
                    f"the parameters of group {g} were replaced after the optimizer was built: it was given "
                    f"{group['count']} parameters and now holds {len(group['params'])}, as backends do that flatten "
                    "parameters. gap_hf knows DDP, FSDP1 (use_orig_params=True), FSDP2, tensor parallel and DeepSpeed "
                    "ZeRO; this is none of them, so its scores would be wrong."
                )
        return super().receive(param_groups, by_parameter)
