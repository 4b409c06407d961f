"""A whole state in files, in one process; from layout to layout by ``run_portable.py``."""

import json

import pytest
import torch

import gap_hf
from gap_hf import portable

from .test_consolidated import step, trained


@pytest.mark.parametrize("shard_bytes", [1, 2**20])
def test_a_run_goes_on_from_it(tmp_path, monkeypatch, shard_bytes):
    monkeypatch.setattr(portable, "SHARD_BYTES", shard_bytes)
    model, optimizer = trained()
    gap_hf.save_portable(optimizer, model, tmp_path / "state")
    shards = list((tmp_path / "state").glob("*.safetensors"))
    assert len(shards) == (4 if shard_bytes == 1 else 1), "a parameter stays together"
    other, fresh = trained(0)
    other.load_state_dict(model.state_dict())
    gap_hf.load_portable(fresh, other, tmp_path / "state")
    for of, by in ((model, optimizer), (other, fresh)):
        step(of, by, range(3, 9))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    assert [g["last_choice"] for g in optimizer.param_groups] == [g["last_choice"] for g in fresh.param_groups]


def test_the_latest_replaces_what_was_there(tmp_path):
    for steps in (1, 3):
        model, optimizer = trained(steps)
        gap_hf.save_portable(optimizer, model, tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert set(json.loads((tmp_path / "state/index.json").read_text())["steps"].values()) == {3.0}


def test_options_of_every_kind_survive(tmp_path):
    """A single pair of betas is told from two candidates by being a tuple; a learning rate may be a tensor."""
    model = torch.nn.Linear(2, 1)
    optimizer = gap_hf.Adam(model.parameters(), lr=torch.tensor(0.5), betas=(0.5, 0.9))
    gap_hf.save_portable(optimizer, model, tmp_path / "state")
    fresh = gap_hf.Adam(model.parameters(), lr=torch.tensor(0.1), betas=(0.5, 0.9))
    gap_hf.load_portable(fresh, model, tmp_path / "state")
    (group,) = fresh.param_groups
    assert group["betas"] == (0.5, 0.9)
    assert torch.equal(group["lr"], torch.tensor(0.5))


def test_an_option_that_json_lacks_is_named(tmp_path):
    model, optimizer = trained()
    optimizer.param_groups[1]["of_mine"] = {1, 2}
    with pytest.raises(TypeError, match="of_mine of group 1 is a set, which can't be written as JSON"):
        gap_hf.save_portable(optimizer, model, tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_nothing_else_is_removed(tmp_path):
    model, optimizer = trained()
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="has mine.txt in it, which save_portable did not write"):
        gap_hf.save_portable(optimizer, model, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "index.json").unlink(), "FileNotFoundError"),
        (lambda folder: (folder / "index.json").write_text("{"), "JSONDecodeError"),
        (lambda folder: (folder / "state-00000.safetensors").write_bytes(b"\1\2"), "SafetensorError"),
        (
            lambda folder: (folder / "index.json").write_text('{"format": 2}'),
            "has format 2; this version of gap_hf reads 1",
        ),
    ],
)
def test_damage_is_named_and_nothing_changes(tmp_path, damage, said):
    model, optimizer = trained()
    gap_hf.save_portable(optimizer, model, tmp_path / "state")
    damage(tmp_path / "state")
    other, untouched = trained(2)
    before = gap_hf.consolidated_state_dict(untouched, other)
    with pytest.raises(ValueError, match=said):
        gap_hf.load_portable(untouched, other, tmp_path / "state")
    after = gap_hf.consolidated_state_dict(untouched, other)
    assert all(torch.equal(t, after["state"][n][k]) for n, found in before["state"].items() for k, t in found.items())
