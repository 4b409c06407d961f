"""The optimizer's state dictionaries: what is saved, and how a saved state is loaded."""

from abc import abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..sharding import before_state_dict, find_layout
from ..sharding.layout import Layout
from . import loading, state
from .codes import in_one_dtype
from .conversion import from_torch
from .decision import Outcome
from .family import Grain
from .packed import pack
from .watched import Watched


class Savable(Watched, Optimizer):
    """The part of an optimizer that checkpoints use."""

    @abstractmethod
    def layout(self) -> Layout | None:
        """Return the parameters' layout over processes now. Every rank must call it."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as ``torch.optim.Optimizer`` does; under FSDP1 there is one before the first step, too."""
        layout = self._shaping_layout()
        before_state_dict(self)
        saved = self._in_one_dtype(super().state_dict())
        if layout is None or layout.saves_own_shapes:
            return saved
        own = {buffer.name for group in self.param_groups for buffer in self.family.buffers(group) if buffer.shape}
        return pack(saved, own)

    def _in_one_dtype(self, saved: dict[str, Any]) -> dict[str, Any]:
        """Return a state dictionary with one dtype for all buffers of a parameter, if the layout's checkpoints need it.

        FSDP1's do (``_convert_all_state_info`` in ``torch/distributed/fsdp/_optim_utils.py``).
        """
        mixed = any(group.get("state_dtype") in ("bfloat16", "8bit") for group in self.param_groups)
        if not mixed or not saved["state"]:
            return saved
        layout = self._layout or find_layout(self)
        if layout is None or not layout.saves_one_dtype:
            return saved
        state = dict(saved["state"])
        for group in saved["param_groups"]:
            declared = self.family.buffers(group)
            state |= {key: in_one_dtype(declared, state[key]) for key in group["params"] if key in state}
        return {**saved, "state": state}

    def make_state(self, g: int, key: Tensor) -> dict[str, Any]:
        """Return ``self.state[key]``, of group ``g``; it is made with unused buffers if there is none."""
        return state.make(self.state, self.family, self.param_groups[g], key, partial(self._shapes, g, key))

    def _shaping_layout(self) -> Layout | None:
        """Return the layout if buffers' shapes depend on it. Then every rank must call it, before there is state."""
        shaped = self.family.grain is not Grain.ELEMENT or self.family.together
        return self.layout() if shaped else None

    def _shapes(self, g: int, key: Tensor) -> list[torch.Size]:
        """Return the shapes of the whole parameters of group ``g`` that ``key`` has parts of, as far as is known."""
        return [key.shape] if self._layout is None else self._layout.shapes_in(g, key)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned, after the hooks, as ``torch.optim.Optimizer.load_state_dict`` does.

        Everything is checked first. Most saved options replace those of the constructor, as in every torch optimizer;
        the documentation's page on resuming has the table. Where they differ, one line in the log says what was taken
        from where. A state of torch's Adam, AdamW or SGD is converted for the optimizers of that kind; the log says so.

        Raises:
            ValueError: the state is another optimizer's or another model's, or is damaged; the optimizer is unchanged.
        """
        state_dict = loading.through_hooks(self, state_dict)
        state_dict, converted = from_torch(self.family, self.param_groups, state_dict)
        self._shaping_layout()
        loaded = loading.check(
            type(self).__name__, self.family, self.options, self.param_groups, self._shapes, state_dict
        )
        self.__setstate__({"state": loaded.state, "param_groups": loaded.param_groups, "_outcome": Outcome()})
        loading.tell([converted, *loaded.notes] if converted else loaded.notes)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)
