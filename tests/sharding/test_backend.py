"""The table of backends: one class and one registration are all that another backend needs."""

import json
import sys

import pytest
import torch

import gap_hf
from gap_hf.sharding import backend
from gap_hf.sharding.backend import Backend
from gap_hf.sharding.single import Single, Whole

from ..tiny import run
from .bag import CASES


@pytest.fixture
def table(monkeypatch):
    """The table, which is put back after the test."""
    monkeypatch.setattr(backend, "_table", list(backend._table))
    return backend._table


class Mine(Backend):
    name = "mine"

    def __init__(self, claims=True):
        self.does_claim, self.prepared, self.saved = claims, [], []

    def claims(self, optimizer):
        return self.does_claim

    def layout(self, optimizer):
        return Whole(optimizer.param_groups)

    def prepare(self, optimizer_class):
        self.prepared.append(optimizer_class)

    def before_state_dict(self, optimizer):
        self.saved.append(optimizer)


def optimizer():
    return gap_hf.SGDM([torch.ones(2, requires_grad=True)], momentum=[0.5, 0.9], type="switch")


def test_the_order_of_the_table():
    names = [type(entry).__name__ for entry in backend._table]
    assert names == ["DeepSpeed", "TorchZero", "DTensors", "FSDP1", "Unwrapped", "Single"]


def test_what_is_registered_is_asked_first_and_in_order(table):
    one, other, none = Mine(), Mine(), Mine(claims=False)
    backend.register(none, one, other)
    assert table[:3] == [none, one, other]
    assert isinstance(table[-1], Single)
    gap = optimizer()
    asked = []
    for entry in (none, one, other):
        entry.layout = lambda optimizer, entry=entry: asked.append(entry) or Whole(optimizer.param_groups)
    gap.layout()
    assert asked == [one]


def test_every_entry_is_prepared_and_told_of_saving(table):
    mine = Mine(claims=False)
    backend.register(mine)
    gap = optimizer()
    gap.state_dict()
    assert (mine.prepared, mine.saved) == ([gap_hf.SGDM], [gap])


def test_nothing_is_added_up_where_parameters_are_whole():
    numbers = torch.ones(3)
    assert Whole(optimizer().param_groups).add_up(numbers) is numbers


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    out = tmp_path_factory.mktemp("toy")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    done = run([*torchrun, "-m", "tests.sharding.toy", out])
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_a_toy_backend_chooses_and_steps_like_one_process(ranks, case):
    for found in (rank[case] for rank in ranks):
        assert found["layout"] == "PlainShards"
        assert found["wrong"] == [], "(step, chosen, by the twin)"
        assert found["missed_steps"] == 0
        assert found["distance"] < 1e-5
        assert found["state_distance"] < 1e-5
        # before the scores come Adai's mean over the model, the two products of Adams, and the gradients of each group
        # for Shampoo
        more = {"adai-wise": 1, "adams-wise": 2, "if_shampoo-switch": 2}.get(case, 0)
        expected = more + (case not in ("adamw-default", "adamw-mix"))
        assert len(found["counts"]["collectives"]) == expected
        assert CASES[case].is_constant() or len(found["chosen"]) > 1, "it never changed"


def test_sums_over_the_ranks(ranks):
    for rank, found in enumerate(ranks):
        mine = [[1.0 * 2**rank, 10.0 * 2**rank]]
        assert found["add_up"] == {"sums": [[3.0, 30.0]], "dtype": "torch.float64", "mine": mine}
