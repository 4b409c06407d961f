"""The runner runs nothing twice, loses at most a batch, and looks for the best learning rate on both sides."""

import pytest
from evidence import run as runner
from evidence.models import Quadratic
from evidence.plan import best, grid, missing
from evidence.studies import STUDIES, Study, task
from evidence.table import add, read

TINY = Study(lambda: Quadratic(8, 50.0), "sgdm", 20, -6, 0.001, "tiny", together=6, linear=False, decay=0.0)
SEEDS = [0, 1]
NAMES = ["fixed_0.9", "mix_.5_.9_.99", "switch_.5_.9_.99"]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(STUDIES, "tiny", TINY)
    task.cache_clear()
    yield
    task.cache_clear()


@pytest.fixture
def counted(monkeypatch):
    """The runs that are trained, in order."""
    trained = []
    original = runner.train

    def train(study, contender, seeds, lrs):
        trained.extend((contender, seed, lr) for seed in seeds for lr in lrs)
        return original(study, contender, seeds, lrs)

    monkeypatch.setattr(runner, "train", train)
    return trained


@pytest.mark.usefixtures("tiny")
def test_nothing_is_run_twice(tmp_path, counted):
    total = runner.run(["tiny"], NAMES, SEEDS, tmp_path)
    assert total == len(counted) == len(set(counted)) == len(read("tiny", tmp_path))
    before = (tmp_path / "tiny.csv").read_bytes()
    assert runner.run(["tiny"], NAMES, SEEDS, tmp_path) == 0
    assert (tmp_path / "tiny.csv").read_bytes() == before
    more = runner.run(["tiny"], NAMES, [0, 1, 2], tmp_path)
    assert more == len(counted) - total > 0
    assert {seed for _, seed, _ in counted[total:]} >= {2}
    assert len(set(counted)) == len(counted)


@pytest.mark.usefixtures("tiny")
def test_a_killed_run_continues(tmp_path, counted, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    runner.run(["tiny"], NAMES, SEEDS, whole)
    del counted[:]
    train = runner.train

    def killed(*args):
        if len(counted) >= 25:
            raise KeyboardInterrupt
        return train(*args)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            runner.run(["tiny"], NAMES, SEEDS, cut)
    assert 0 < len(read("tiny", cut)) == len(counted) < len(read("tiny", whole))
    runner.run(["tiny"], NAMES, SEEDS, cut)
    assert len(set(counted)) == len(counted)
    assert (cut / "tiny.csv").read_text() == (whole / "tiny.csv").read_text()


@pytest.mark.usefixtures("tiny")
def test_the_best_learning_rate_is_inside(tmp_path):
    """The grid begins far below the best one, and every contender is run at the one tuned for 0.9."""
    runner.run(["tiny"], NAMES, SEEDS, tmp_path)
    known = read("tiny", tmp_path)
    tuned = best([row for row in known.values() if row.contender == "fixed_0.9"], SEEDS)
    assert tuned > TINY.lr + 2, "the first grid did not contain it"
    for name in NAMES:
        own = {key: row for key, row in known.items() if row.contender == name}
        ks, found = grid("tiny", name, known, SEEDS), best(own.values(), SEEDS)
        assert {found - 1, found + 1, tuned} <= set(ks)
        assert not missing("tiny", name, known, SEEDS)


@pytest.mark.usefixtures("tiny")
def test_seeds_start_alike(tmp_path):
    """The same seed has the same start for every contender and learning rate; other seeds have another."""
    runner.run(["tiny"], NAMES, SEEDS, tmp_path)
    starts = {seed: {row.start for row in read("tiny", tmp_path).values() if row.seed == seed} for seed in SEEDS}
    assert all(len(some) == 1 for some in starts.values())
    assert starts[0] != starts[1]


@pytest.mark.usefixtures("tiny")
def test_what_diverges_is_recorded(tmp_path):
    add("tiny", runner.train("tiny", "fixed_0.9", [0], [2.0**40]), tmp_path)
    (row,) = read("tiny", tmp_path).values()
    assert row.diverged
    assert row.counted == row.start
