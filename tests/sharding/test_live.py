"""Looking among all living objects takes long: only where something could be found."""

import gc

import torch
import torch.distributed.optim.zero_redundancy_optimizer  # what is looked for must be loaded
from deepspeed.runtime import engine  # noqa: F401

import gap_hf
from gap_hf.sharding import live


def test_a_process_by_itself_is_not_searched(monkeypatch):
    def never():
        raise AssertionError("all objects were looked at")

    monkeypatch.setattr(gc, "get_objects", never)
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.ones(3)
    gap_hf.GapAdamW([p]).step()


def test_instances_finds_subclasses():
    class Base:
        pass

    class Derived(Base):
        pass

    one, two = Base(), Derived()
    assert {id(found) for found in live.instances(Base)} == {id(one), id(two)}
