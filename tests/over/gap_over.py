"""The optimizer class over whole optimizers, in the tests' hands until it runs in every layout."""

from collections.abc import Sequence
from typing import Any

from gap_hf.optim.options import given
from gap_hf.optim.over import spec as writing
from gap_hf.optim.over.family import OverFamily
from gap_hf.optim.shell import GapOptimizer

NEVER = 2**62
"""A threshold that no count reaches."""


class GapOver(GapOptimizer):
    r"""Choose among whole optimizers at every step, or mix their steps.

    Args:
        params: parameters or group dicts, as for any ``torch.optim`` optimizer.
        {options}

    State per parameter: ``step`` (0-dim), and what each candidate keeps, with the candidate's number behind its name:
    ``exp_avg_0``, ``exp_avg_sq_0``, ``exp_avg_1``. What a candidate keeps for a whole group is in
    ``param_group['carried']``.

    Raises:
        ValueError: an option is out of range, or an optimizer can't be a candidate.
    """

    family = OverFamily()

    def __init__(
        self,
        params: Any,
        candidates: str | list[Any],
        lr: float = 1e-3,
        weight_decay: float = 0,
        *,
        type: str = "switch_parameter_wise",
        score: str = "rms",
        weights: Sequence[float] | str | None = None,
        J_ema: float = 0.0,
        seed: int = 0,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        elsewhere = {"lr_modulation": False, "hysteresis_threshold": NEVER, "carried": None}
        super().__init__(params, {**given(locals()), **elsewhere})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as ``torch.optim.Optimizer.add_param_group`` does. Raises ValueError."""
        candidates = writing.read(param_group.get("candidates", self.defaults["candidates"]))
        text = ":".join(spec.text for spec in candidates)  # which a checkpoint can hold
        super().add_param_group({**param_group, "candidates": text, "carried": [{} for _ in candidates]})
