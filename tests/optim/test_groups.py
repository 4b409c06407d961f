"""Groups are dicts whose choices stay where they were computed until they are read."""

import copy
import json
import pickle

import pytest
import torch

from gap_hf.optim.groups import Group, held, keep

CPU = torch.device("cpu")
FACTS = {"type": "switch_parameter_wise", "count": 2, "K": 3}


@pytest.fixture
def group():
    group = Group({**FACTS, "last_choice": [0, 0], "negative_steps": [0, 0], "J_bar": [0.0, 0.0, 0.0]})
    group.keep("last_choice", torch.tensor([1, 2]))
    group.keep("J_bar", torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64))
    return group


READERS = {
    "item": lambda g: g["last_choice"],
    "get": lambda g: g.get("last_choice"),
    "items": lambda g: dict(g.items())["last_choice"],
    "values": lambda g: list(g.values())[3],
    "dict": lambda g: dict(g)["last_choice"],
    "unpacked": lambda g: {**g}["last_choice"],
    "copied": lambda g: g.copy()["last_choice"],
    "copy": lambda g: copy.copy(g)["last_choice"],
    "deepcopy": lambda g: copy.deepcopy(g)["last_choice"],
    "pickled": lambda g: pickle.loads(pickle.dumps(g))["last_choice"],
    "json": lambda g: json.loads(json.dumps(g))["last_choice"],
    "repr": lambda g: eval(repr(g))["last_choice"],
    "union": lambda g: (g | {})["last_choice"],
    "pop": lambda g: g.pop("last_choice"),
    "setdefault": lambda g: g.setdefault("last_choice", None),
    "updated": lambda g: (d := {}, d.update(g), d["last_choice"])[-1],
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_every_way_of_reading_gives_numbers(group, read):
    assert read(group) == [1, 2]


def test_equality_is_of_numbers(group):
    assert group == {**FACTS, "last_choice": [1, 2], "negative_steps": [0, 0], "J_bar": [0.5, 2.0, 1.0]}
    assert group != FACTS
    assert group == copy.deepcopy(group)


def test_what_is_held_is_the_tensor_itself(group):
    kept = torch.tensor([2, 0])
    group.keep("last_choice", kept)
    assert held(group, "last_choice", CPU) is kept
    assert group["last_choice"] == [2, 0]
    assert held(group, "last_choice", CPU) is kept, "reading it does not lose it"


WRITERS = {
    "item": lambda g, v: g.__setitem__("last_choice", v),
    "update": lambda g, v: g.update(last_choice=v),
    "update-dict": lambda g, v: g.update({"last_choice": v}),
    "ior": lambda g, v: g.__ior__({"last_choice": v}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_is_written_counts(group, write):
    write(group, [0, 1])
    assert group["last_choice"] == [0, 1]
    assert held(group, "last_choice", CPU).tolist() == [0, 1]


def test_scalars_and_dtypes(group):
    group.keep("last_choice", torch.tensor(2))
    assert group["last_choice"] == 2
    assert isinstance(group["last_choice"], int)
    group["type"], group["last_choice"] = "switch", 1
    assert held(group, "last_choice", CPU).dtype == torch.int64
    assert held(group, "last_choice", CPU).ndim == 0
    assert held(group, "J_bar", CPU).dtype == torch.float64
    assert all(isinstance(J, float) for J in group["J_bar"])


def test_a_plain_dict_gets_the_numbers_at_once():
    group = {**FACTS, "type": "switch", "last_choice": 0}
    keep(group, "last_choice", torch.tensor(2))
    assert group["last_choice"] == 2
    assert held(group, "last_choice", CPU).item() == 2


def test_capturable_values_stay_in_place_and_are_read_anew():
    """A CUDA graph writes to the same address at every replay, without Python."""
    group = Group({"capturable": True, "last_choice": 0})
    kept = torch.tensor(1)
    group.keep("last_choice", kept)
    assert group["last_choice"] == 1
    kept.fill_(2)
    assert group["last_choice"] == 2
    group.keep("last_choice", torch.tensor(0))
    assert held(group, "last_choice", CPU) is kept
    assert group["last_choice"] == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [("last_choice", bad) for bad in ([0, 3], [0, -1], [0], [0, 0, 0], 1, None, [0, 0.5], [0, True], [0, 2**70], "00")]
    + [("negative_steps", bad) for bad in ([0, -1], [[], 0], [0, 2**63], 0)]
    + [("J_bar", bad) for bad in ([0.0, 1.0], [0.0, 1.0, float("nan")], 0.0, ["0", "1", "2"])],
)
def test_what_is_written_is_checked_before_it_reaches_a_kernel(group, key, value):
    group[key] = value
    with pytest.raises(ValueError, match=f"{key}=.* is damaged; expected"):
        held(group, key, CPU)
