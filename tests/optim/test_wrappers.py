"""Wrappers that pass for the optimizer's own class, as Lightning's and Fabric's do."""

import pytest
import torch

import gap_hf
from gap_hf.optim.find import find_gap_optimizer


class Wrapper:
    """Takes the class of what it wraps, and hands on what it lacks itself."""

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self.__class__ = type("Wrapped", (type(self), type(optimizer)), {})

    @property
    def optimizer(self):
        return self._optimizer

    def __getattr__(self, name):
        return getattr(self._optimizer, name)


@pytest.mark.parametrize("cls", [gap_hf.GapAdamW, gap_hf.Adam, gap_hf.SGDM])
def test_a_wrapper_may_imitate_the_class(cls):
    inner = cls(torch.nn.Linear(2, 2).parameters(), lr=0.1)
    wrapper = Wrapper(inner)
    assert isinstance(wrapper, cls)
    assert type(wrapper).options is cls.options
    assert find_gap_optimizer(wrapper) is inner
