import gc

import torch
import torch.distributed.optim.zero_redundancy_optimizer  # what is looked for must be loaded
from deepspeed.runtime import engine  # noqa: F401

import gap_hf
from gap_hf.sharding.heap import instances, one_scan


class Found:
    pass


class Derived(Found):
    pass


class Unhashable(type):
    __hash__ = None


class Odd(metaclass=Unhashable):
    pass


class Proxy:
    """Claims to be something else, and does not want to be asked."""

    @property
    def __class__(self):
        raise AssertionError("foreign code ran")


def test_types_and_those_derived_from_them():
    kept = [Found(), Derived(), Odd(), Proxy()]
    assert set(map(id, instances(Found))) == set(map(id, kept[:2]))
    assert [id(found) for found in instances(Derived)] == [id(kept[1])]
    assert {id(found) for found in instances(Derived, Odd)} == {id(kept[1]), id(kept[2])}


def test_one_scan_looks_once(monkeypatch):
    looks = []
    monkeypatch.setattr(gc, "get_objects", lambda look=gc.get_objects: looks.append(1) or look())
    with one_scan():
        assert looks == [], "not before somebody asks"
        instances(Found)
        instances(Derived)
        assert len(looks) == 1
    instances(Found)
    assert len(looks) == 2


def test_nothing_is_kept():
    """A tuple that is being made must have no other owner when it is finished, else CPython raises SystemError."""

    def found():
        for _ in range(30):  # so many that the tuple has to grow
            yield len(instances(Found))

    kept = [Found()]
    gc.disable()  # a collection would hide what is left
    try:
        assert tuple(found()) == (len(kept),) * 30
    finally:
        gc.enable()


def test_a_process_by_itself_is_not_searched(monkeypatch):
    """It would take up to a second at the first step of every optimizer."""

    def never():
        raise AssertionError("all objects were looked at")

    monkeypatch.setattr(gc, "get_objects", never)
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.ones(3)
    gap_hf.GapAdamW([p]).step()
